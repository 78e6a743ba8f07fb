"""One run of the unlock process: job in, events out, the content key past us to guard (docs/protocol.md 4)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlatch.errors import UnlatchError
from unlatch.memguard.control import GuardControl
from unlatch.memguard.posture import environment

# What the unlock process keeps of the supervisor's environment: the way out of the network, where CAs and the
# host key lie.
KEPT_ENVIRONMENT = (
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "UNLATCH_HOST_KEY",
)
MAX_EVENT_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: exit code of the table, message and hint of a failure."""

    code: int
    message: str = ""
    hint: str | None = None


async def unlock(
    job: Mapping[str, Any],
    guard: GuardControl,
    *,
    on_event: Callable[[dict[str, Any]], None],
    host_key: Path | None = None,
) -> Outcome:
    """Run the unlock process to its end; its standard error is ours, so that a person sees the waiting line.

    Cancelling ends the process. `host_key` is the configuration's; the environment's wins, as everywhere.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    job_read, job_write = os.pipe()
    event_read, event_write = os.pipe()
    given = [job_read, event_write, theirs.fileno()]
    try:
        process = await asyncio.create_subprocess_exec(
            *environment.command("unlatch.bootstrap.unlock", *map(str, given)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            pass_fds=given,
            env=environment.hard(
                {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
                | ({"UNLATCH_HOST_KEY": str(host_key)} if host_key else {})
                | {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
                | environment.hardware_variables()
            ),
        )
    finally:
        os.close(job_read)
        os.close(event_write)
        theirs.close()
    with ours:
        try:
            with os.fdopen(job_write, "wb") as pipe:
                pipe.write(json.dumps(job).encode())
            return await _follow(process, event_read, ours, guard, on_event)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                await process.wait()


async def _load(guard: GuardControl, ours: socket.socket) -> None:
    """Let guard read; our end is closed then, so that unlock notices a guard that died."""
    with ours:
        await guard.load(ours.fileno())


async def _follow(
    process: asyncio.subprocess.Process,
    event_read: int,
    ours: socket.socket,
    guard: GuardControl,
    on_event: Callable[[dict[str, Any]], None],
) -> Outcome:
    reader = asyncio.StreamReader(limit=MAX_EVENT_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(event_read, "rb")
    )
    failed: dict[str, Any] = {}
    load: Awaitable[Any] | None = None
    try:
        async for line in reader:
            event = json.loads(line)
            on_event(event)
            if event["event"] == "opened":
                # Only now does guard listen on the stream: it never waits for a person.
                load = asyncio.ensure_future(_load(guard, ours))
            elif event["event"] == "failed":
                failed = event
    finally:
        transport.close()
    code = await process.wait()
    if load is not None:
        try:
            await load
        except UnlatchError as error:
            return Outcome(error.exit_code, str(error), error.hint)
    if code == 0 and load is None:
        return Outcome(1, "the unlock process ended without opening anything")
    if code < 0:
        return Outcome(1, f"the unlock process was ended by signal {-code}")
    return Outcome(code, str(failed.get("message", "")), failed.get("hint"))
