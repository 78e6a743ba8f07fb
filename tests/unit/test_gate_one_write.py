"""The HTTP protocol under both listeners: whole requests in time, one write for each reply, no reply to noise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn

from unlatch.gate import asgi, one_write
from unlatch.gate.one_write import OneWriteProtocol

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
WHOLE = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok"


async def echo(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    try:
        body = await asgi.read_body(receive, limit=4)
    except asgi.DisconnectedError:
        return
    await asgi.Reply(413 if len(body) > 4 else 200, body, "text/plain").send(send)


@asynccontextmanager
async def served(
    protocol: type[OneWriteProtocol] = OneWriteProtocol,
) -> AsyncIterator[Callable[[], Awaitable[Streams]]]:
    config = uvicorn.Config(
        echo, http=OneWriteProtocol, ws="none", lifespan="off", log_config=None, access_log=False
    )
    config.load()
    state = uvicorn.server.ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield lambda: asyncio.open_connection("127.0.0.1", port)
        for connection in list(state.connections):
            connection.shutdown()


async def exchange(
    data: bytes, *, until: bytes = b"", protocol: type[OneWriteProtocol] = OneWriteProtocol
) -> bytes:
    """What comes back until a text, or until the connection is closed."""
    async with served(protocol) as connect:
        reader, writer = await connect()
        writer.write(data)
        async with asyncio.timeout(5):
            found = await (reader.readuntil(until) if until else reader.read())
        writer.close()
        return found


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_write, "REQUEST_SECONDS", 0.05)


def test_whole_request_is_answered() -> None:
    assert asyncio.run(exchange(WHOLE, until=b"\r\n\r\nok")).startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("cut", [0, 5, 40, len(WHOLE) - 1])
def test_request_that_does_not_end_is_closed_without_a_reply(cut: int) -> None:
    assert asyncio.run(exchange(WHOLE[:cut])) == b""


@pytest.mark.usefixtures("_short")
def test_connection_that_has_been_answered_stays_open_for_the_next_request() -> None:
    async def twice() -> bytes:
        async with served() as connect:
            reader, writer = await connect()
            for _ in range(2):
                writer.write(WHOLE)
                found = await reader.readuntil(b"\r\n\r\nok")
                await asyncio.sleep(0.1)  # longer than a request may take
            writer.close()
            return found

    assert asyncio.run(twice()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "noise",
    [b"hello\r\n\r\n", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"],
)
def test_noise_gets_no_reply(noise: bytes) -> None:
    assert asyncio.run(exchange(noise)) == b""


def test_head_over_its_limit_gets_no_reply() -> None:
    assert asyncio.run(exchange(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000)) == b""


def test_endless_body_is_refused_before_its_end() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"

    assert asyncio.run(exchange(head + b"x" * 80_000, until=b"\r\n\r\n")).startswith(b"HTTP/1.1 413")


def test_reply_leaves_in_one_write() -> None:
    writes: list[bytes] = []

    class Counting(OneWriteProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            write = transport.write

            def count(data: bytes) -> None:
                writes.append(bytes(data))
                write(data)

            transport.write = count  # type: ignore[method-assign,assignment]
            super().connection_made(transport)

    asyncio.run(exchange(WHOLE, until=b"\r\n\r\nok", protocol=Counting))

    assert len(writes) == 1
