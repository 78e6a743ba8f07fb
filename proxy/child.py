"""A Rust child with a configuration and a control socket: edge or egress (docs/protocol.md 2)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlatch.errors import BusyError, ConfigError, UnavailableError
from unlatch.proxy.door import memory_file
from unlatch.proxy.users import Identity

EDGE_PROGRAM = Path(__file__).with_name("unlatch-edge")
MAX_MESSAGE_BYTES = 65536
READY_SECONDS = 10.0
ANSWER_SECONDS = 10.0


class Child:
    """One running `unlatch-edge`. Every request has one answer, in order."""

    def __init__(self, role: str, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self.role = role
        self.process = process
        self._control = control
        self._turn = asyncio.Lock()

    @classmethod
    async def start(
        cls, role: str, config: Mapping[str, Any], descriptors: list[int], *, user: Identity | None
    ) -> Child:
        """Start the program and wait until it says that it is ready.

        Args:
            role: "edge" or "egress".
            config: its configuration; it names descriptors by their numbers here, which the child keeps.
            descriptors: those that the child inherits besides configuration and control.
            user: whom it becomes before it reads anything; None where this process is not root.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        memory = memory_file(f"unlatch-{role}", json.dumps(config).encode())
        try:
            process = await asyncio.create_subprocess_exec(
                str(EDGE_PROGRAM),
                *("--role", role, "--config-fd", str(memory), "--control-fd", str(theirs.fileno())),
                *(("--user", str(user)) if user else ()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[memory, theirs.fileno(), *descriptors],
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            )
        except OSError as error:
            ours.close()
            raise ConfigError(f"cannot start {EDGE_PROGRAM}: {error.strerror}") from error
        finally:
            os.close(memory)
            theirs.close()
        child = cls(role, process, ours)
        try:
            await child._expect("ready", READY_SECONDS)
        except BaseException:
            await child.kill()
            raise
        return child

    async def reload(self, config: Mapping[str, Any]) -> None:
        """Hand over a new configuration; the child keeps the old one when it refuses."""
        memory = memory_file(f"unlatch-{self.role}", json.dumps(config).encode())
        try:
            await self._ask({"do": "reload"}, "reloaded", [memory])
        finally:
            os.close(memory)

    async def give(self, kind: str, descriptor: int) -> None:
        """Replace the socket towards a restarted neighbour: "egress" for edge, "edge" for egress."""
        await self._ask({"do": kind}, None, [descriptor])

    async def status(self) -> dict[str, Any]:
        """The child's own counters."""
        return await self._ask({"do": "status"}, "status", [])

    async def drain(self, seconds: float) -> None:
        """Let requests under way finish, then end."""
        try:
            async with self._turn:
                self._control.send(json.dumps({"do": "drain", "seconds": math.ceil(seconds)}).encode())
            async with asyncio.timeout(seconds + 5):
                await self.process.wait()
        except (OSError, TimeoutError):
            await self.kill()
        self._control.close()

    async def kill(self) -> None:
        """End it now."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            await self.process.wait()
        self._control.close()

    async def _ask(
        self, message: dict[str, Any], answer: str | None, descriptors: list[int]
    ) -> dict[str, Any]:
        async with self._turn:
            try:
                socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)
            except OSError as error:
                raise UnavailableError(f"{self.role} does not take messages: {error.strerror}") from error
            return await self._expect(answer, ANSWER_SECONDS) if answer else {}

    async def _expect(self, event: str, seconds: float) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    data = await loop.sock_recv(self._control, MAX_MESSAGE_BYTES)
                    if not data:
                        raise UnavailableError(f"{self.role} ended before it answered")
                    message: dict[str, Any] = json.loads(data)
                    if message.get("event") == event:
                        return message
                    if message.get("event") == "refused":
                        raise ConfigError(f"{self.role}: {message.get('message')}")
        except TimeoutError as error:
            raise BusyError(f"{self.role} did not answer within {seconds:.0f} s") from error
        except (OSError, ValueError) as error:
            raise UnavailableError(f"{self.role} does not answer as agreed") from error
