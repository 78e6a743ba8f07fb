"""The supervisor's side of edge and egress, for tests: sockets, configuration, control."""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import unlatch.proxy

PROGRAM = Path(unlatch.proxy.__file__).with_name("unlatch-edge")


def memfd(config: dict[str, Any]) -> int:
    """A configuration as the supervisor passes it."""
    fd = os.memfd_create("config")
    os.write(fd, json.dumps(config).encode())
    return fd


def listening_sockets(count: int, address: str = "127.0.0.1", *, listens: bool = True) -> list[socket.socket]:
    """`count` sockets that share a free port, one per worker; without `listens` they are only bound."""
    sockets: list[socket.socket] = []
    port = 0
    for _ in range(count):
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((address, port))
        if listens:
            one.listen(512)
        port = one.getsockname()[1]
        sockets.append(one)
    return sockets


@dataclass
class Program:
    """A running unlatch-edge."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    config: dict[str, Any]
    log: Any
    kept: list[socket.socket] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        config: dict[str, Any],
        kept: Sequence[socket.socket],
        *,
        ready: bool = True,
        becomes: str | None = None,
        runs_as: int | None = None,
    ) -> Program:
        """Start one role; `kept` are the sockets that the configuration names by number.

        Args:
            becomes: UID:GID for the program's own `--user`.
            runs_as: the user and group, without others, to start the program as.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(20)
        fd = memfd(config)
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop
        numbers = [fd, theirs.fileno(), *(one.fileno() for one in kept)]
        arguments = ["--role", config["role"], "--config-fd", str(fd), "--control-fd", str(theirs.fileno())]
        process = subprocess.Popen(
            [PROGRAM, *arguments, *(["--user", becomes] if becomes else [])],
            pass_fds=numbers,
            user=runs_as,
            group=runs_as,
            extra_groups=None if runs_as is None else [],
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        os.close(fd)
        program = cls(process, ours, config, log, list(kept))
        if ready:
            assert program.event() == {"event": "ready"}
        return program

    def event(self) -> dict[str, Any]:
        """The next event; `{}` at the end of the program."""
        data = self.control.recv(65536)
        return json.loads(data) if data else {}

    def order(self, order: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send an order with descriptors."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.control.sendmsg([json.dumps(order).encode()], rights)

    def reload(self, config: dict[str, Any], guard: Sequence[socket.socket] = ()) -> dict[str, Any]:
        """Offer a new configuration; the answer."""
        fd = memfd(config)
        try:
            self.order({"do": "reload"}, [fd, *(one.fileno() for one in guard)])
        finally:
            os.close(fd)
        return self.event()

    def status(self) -> dict[str, Any]:
        """Counters."""
        self.order({"do": "status"})
        return self.event()

    def reaches(self, counter: str, value: int, *, seconds: float = 10) -> bool:
        """Whether a counter comes to a value: edge counts a connection when it has left it, after the peer's news."""
        deadline = time.monotonic() + seconds
        while (found := self.status()[counter]) < value and time.monotonic() < deadline:
            time.sleep(0.01)
        return bool(found == value)

    def stop(self) -> str:
        """End it as a dying supervisor does; everything it wrote to standard error."""
        self.control.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        for one in self.kept:
            one.close()
        return self.close_log()

    def close_log(self) -> str:
        """What it wrote to standard error."""
        if self.log.closed:
            return ""
        self.log.seek(0)
        text: str = self.log.read().decode()
        self.log.close()
        # The filter knows every call that the program makes in any test.
        assert "refused system call" not in text, text
        return text
