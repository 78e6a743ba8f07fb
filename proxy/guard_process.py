"""The guard process and its control connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import Any

from unlatch.errors import BusyError, ConfigError
from unlatch.memguard.control import GuardControl, guard_program
from unlatch.proxy import config
from unlatch.proxy.users import Identity

SOCKET_SECONDS = 2.0


class Guard:
    """One running guard."""

    def __init__(self, process: asyncio.subprocess.Process, control: GuardControl) -> None:
        self.process = process
        self.control = control

    @classmethod
    async def start(cls, *, user: Identity | None, settings: config.Config) -> Guard:
        """Start guard, locked and empty.

        Raises:
            ConfigError: a protection is missing that the settings require.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    str(guard_program()),
                    *("--control-fd", str(theirs.fileno())),
                    *(("--user", str(user)) if user else ()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                )
            except OSError as error:
                ours.close()
                raise ConfigError(f"cannot start {guard_program()}: {error.strerror}") from error
        guard = cls(process, GuardControl(ours))
        try:
            await guard.settings(settings)
        except BaseException:
            await guard.end()
            raise
        return guard

    async def settings(self, settings: config.Config) -> None:
        """Say how to keep secrets, before the first load or at reload."""
        await self.control.settings(
            reshare_ms=round(settings.guard.reshare * 1000),
            require=list(settings.guard.require),
            never_joined=settings.guard.never_joined,
            ticket_epoch_seconds=round(settings.tickets.epoch),
        )

    async def worker_socket(self, role: str, **rights: Any) -> socket.socket:
        """A new socket on which guard serves one worker of edge, or egress.

        Raises:
            BusyError: guard serves as many as it can, and none of them ended within two seconds.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        clock = asyncio.get_running_loop().time
        until = clock() + SOCKET_SECONDS
        with theirs:
            while True:
                try:
                    await self.control.worker(theirs.fileno(), role=role, **rights)
                except BusyError:
                    # Guard notices the end of sockets that were closed just now a moment later.
                    if clock() > until:
                        ours.close()
                        raise
                    await asyncio.sleep(0.01)
                else:
                    return ours

    async def end(self) -> None:
        """End guard; what it held is wiped."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            await self.process.wait()
        self.control.close()
