"""Starts the product as a user would, and reads what it says."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
UNLATCH = [sys.executable, "-m", "unlatch"]


def eventually(what: str, look: Callable[[], T | None], *, seconds: float = 30.0) -> T:
    """What `look` gives, once it gives something; polling a real process, so bounded instead of instant."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.02)
    return found


def is_running(pid: int) -> bool:
    """Whether a process lives; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


def free_port() -> int:
    """A port that nobody uses, below those that the kernel gives to connections: it stays free until it is used."""
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(20_000, given if given > 21_000 else 65_536)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


def unlatch(
    *arguments: str,
    cwd: Path,
    stdin: bytes = b"",
    seconds: float = 60,
    extra: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end, with a home of its own."""
    return subprocess.run(
        [*UNLATCH, *arguments],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=environment(cwd) | (extra or {}),
        timeout=seconds,
        check=False,
    )


def environment(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "LANG": "C.UTF-8",
    }


class Running:
    """A process of ours with its standard error in a file; ended with its whole session."""

    def __init__(
        self, argv: list[str], *, folder: Path, name: str, extra: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=folder,
                env=environment(folder) | (extra or {}),
                start_new_session=True,
            )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def events(self) -> Iterator[dict[str, Any]]:
        for line in self.text().splitlines():
            with contextlib.suppress(ValueError):
                content = json.loads(line)
                if isinstance(content, dict):
                    yield content

    def wait_for_event(self, event: str, *, count: int = 1, seconds: float = 30.0) -> dict[str, Any]:
        """The count-th line of this event; fails with the log when the process ends before."""

        def look() -> dict[str, Any] | None:
            found = [one for one in self.events() if one.get("event") == event]
            if len(found) >= count:
                return found[count - 1]
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text()}"
            return None

        try:
            return eventually(f"event {event!r}", look, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}") from None

    def wait_for_end(self, *, seconds: float = 30.0) -> int:
        return self.process.wait(seconds)


class Proxy(Running):
    """`unlatch serve` with one TLS listener; `through` is a command that becomes it."""

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        name: str = "proxy",
        extra: dict[str, str] | None = None,
        through: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        self.health = free_port()
        path = folder / f"{name}.yaml"
        path.write_text(config.replace("@port@", str(self.port)).replace("@health@", str(self.health)))
        self.config = path
        super().__init__(
            [*through, *UNLATCH, "serve", "-c", str(path)], folder=folder, name=name, extra=extra
        )

    def pid(self, role: str) -> int:
        """The process that plays a role now."""
        return int(self.status()["processes"][role]["pid"])

    def status(self) -> dict[str, Any]:
        result = unlatch("status", "--json", "--socket", "admin.sock", cwd=self.folder)
        return dict(json.loads(result.stdout))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return unlatch(*arguments, "--socket", "admin.sock", cwd=self.folder)

    def is_refused(self) -> bool:
        """Whether a plain connect is refused."""
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) != 0

    def readiness(self) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.health, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            return answer.status, answer.read().decode().strip()

    def get(
        self,
        path: str = "/",
        *,
        ca: Path,
        host: str = "localhost",
        version: ssl.TLSVersion | None = None,
        ciphers: str | None = None,
        method: str = "GET",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """One request over TLS, verified."""
        context = ssl.create_default_context(cafile=str(ca))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if ciphers is not None:
            context.set_ciphers(ciphers)
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            connection = http.client.HTTPConnection(host)
            connection.sock = tls
            connection.request(method, path, headers={"Host": host} | (headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()
