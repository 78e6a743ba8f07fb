"""/livez and /readyz on their own address, parsed by h11."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h11

from unlatch.errors import ConfigError
from unlatch.proxy.config_values import split_address

REQUEST_SECONDS = 5.0
MAX_HEAD_BYTES = 8192


async def serve_health(address: str, state: Callable[[], str]) -> asyncio.Server:
    """Answer `/livez` with 200 and `/readyz` with 200 while serving, else 503 and the state's name."""
    host, port = split_address(address)
    try:
        return await asyncio.start_server(lambda reader, writer: _answer(reader, writer, state), host, port)
    except OSError as error:
        raise ConfigError(f"cannot bind {address}: {error.strerror}", hint="admin.http names it") from error


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, state: Callable[[], str]
) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await reader.read(4096))
            if isinstance(event, h11.Request):
                status, body = decide(event.method, event.target, state())
                headers = [
                    ("Content-Type", "text/plain"),
                    ("Content-Length", str(len(body))),
                    ("Connection", "close"),
                ]
                writer.write(connection.send(h11.Response(status_code=status, headers=headers)) or b"")
                if event.method != b"HEAD":
                    writer.write(body)
                await writer.drain()
    except (h11.RemoteProtocolError, TimeoutError, ConnectionError):
        return  # whoever asks badly gets nothing
    finally:
        writer.close()


def decide(method: bytes, target: bytes, state: str) -> tuple[int, bytes]:
    """Status and body of one request."""
    if target not in {b"/livez", b"/readyz"}:
        return 404, b"not found\n"
    if method not in {b"GET", b"HEAD"}:
        return 405, b"GET or HEAD\n"
    if target == b"/livez":
        return 200, b"alive\n"
    return (200 if state == "serving" else 503), f"{state}\n".encode()
