"""The admin socket: one JSON line in, one JSON line out, for root and the proxy's own user.

Requests: `{"do": "status" | "reload" | "unlock" | "relock" | "csr" | "stop", …}`. Answers: `{"ok": …}` or
`{"error": message, "hint": …, "code": exit code}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

from unlatch.errors import ConfigError, NotRunningError, RefusedError, UnlatchError
from unlatch.proxy.log import log
from unlatch.proxy.supervisor import Supervisor

MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 1 << 20
REQUEST_SECONDS = 5.0


async def serve_admin(supervisor: Supervisor, path: Path) -> asyncio.Server:
    """Listen on a UNIX socket of mode 0600; a stale one is replaced, a live one is an error."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if path.is_socket():
        if _is_live(path):
            raise ConfigError(
                f"another unlatch serves on {path}", hint="admin.socket names the socket of each instance"
            )
        path.unlink()
    before = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(
            lambda reader, writer: _answer(supervisor, reader, writer), path, limit=MAX_REQUEST_BYTES
        )
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {path}: {error.strerror}", hint="admin.socket names it"
        ) from error
    finally:
        os.umask(before)


def ask(path: Path, request: dict[str, Any], *, seconds: float = 60.0) -> Any:
    """Ask a running supervisor; its errors are raised here with their exit code."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(seconds)
            channel.connect(str(path))
            channel.sendall(json.dumps(request).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n") and (chunk := channel.recv(65536)):
                data += chunk
        answer = json.loads(data)
    except (OSError, ValueError) as error:
        raise NotRunningError(
            f"no unlatch answers on {path}",
            hint="start it with unlatch serve, or name its socket: --socket PATH",
        ) from error
    if "error" in answer:
        failure = UnlatchError(answer["error"], hint=answer.get("hint"))
        failure.exit_code = int(answer["code"])
        raise failure
    return answer["ok"]


def _is_live(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        return channel.connect_ex(str(path)) == 0


async def _answer(supervisor: Supervisor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        _check_peer(writer)
        async with asyncio.timeout(REQUEST_SECONDS):
            line = await reader.readline()
        request = json.loads(line)
        result = await _do(supervisor, request)
        answer: dict[str, Any] = {"ok": result}
    except UnlatchError as error:
        answer = {"error": str(error), "hint": error.hint, "code": error.exit_code}
    except (ValueError, KeyError, TypeError, AttributeError, TimeoutError):
        answer = {"error": "not a request of the admin socket", "hint": None, "code": 2}
    try:
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
    except ConnectionError:
        log("warning", message="an asker on the admin socket went away")
    finally:
        writer.close()


def _check_peer(writer: asyncio.StreamWriter) -> None:
    """The mode keeps others out; this holds even where someone loosened it."""
    channel = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack(
        "3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    if uid not in {0, os.getuid()}:
        raise RefusedError("the admin socket is for root and the proxy's user")


async def _do(supervisor: Supervisor, request: dict[str, Any]) -> Any:
    match request["do"]:
        case "status":
            return await supervisor.status()
        case "reload":
            return await supervisor.reload()
        case "unlock":
            return supervisor.ask(request.get("reason"))
        case "relock":
            return supervisor.lock()
        case "csr":
            return await supervisor.csr(str(request["key"]))
        case _:
            raise ValueError
