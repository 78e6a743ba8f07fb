"""Servers as process trees: started in a scratch folder, watched from outside, ended by number."""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from peers import Peer, fill

HERE = Path(__file__).resolve().parent
WORK = HERE / "work"
TLSLOAD = str(WORK / "tlsload")
TICKS = os.sysconf("SC_CLK_TCK")
MOST_FILES = 16384


class StartError(Exception):
    """A server did not answer its first request."""


def pinned(cpu: int) -> Callable[[], None]:
    """For `preexec_fn`: one processor, enough descriptors."""

    def prepare() -> None:
        os.sched_setaffinity(0, {cpu})
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(MOST_FILES, hard) if hard > 0 else MOST_FILES, hard))

    return prepare


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def processor_seconds(pids: list[int]) -> float:
    """User and system time of these processes."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


def machine_seconds() -> float:
    """What all processors have spent, stolen time included."""
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / TICKS


def resident_kb(pids: list[int]) -> int:
    """Proportional resident memory: shared pages count once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Server:
    """``with Server(peer, values, cpu=0) as server``: running, and answering if it is to be probed."""

    def __init__(self, peer: Peer, values: dict[str, object], *, cpu: int, probe: bool = True) -> None:
        self.peer = peer
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{peer.name}-", dir=WORK))
        self._folder.chmod(0o755)
        self._values = values | {"port": self.port, "dir": self._folder, "here": HERE}
        self._cpu = cpu
        self._probe = probe
        self.start_ms = 0.0

    def __enter__(self) -> Self:
        for name, text in self.peer.files.items():
            (self._folder / name).write_text(fill(text, self._values))
        command = fill(self.peer.command, self._values).split()
        # The probe connects in a loop from before the start: its first success ends the start.
        first = [TLSLOAD, "first", "-p", str(self.port), "-l", "15"]
        probe = (
            subprocess.Popen(first, stdout=subprocess.PIPE, preexec_fn=pinned(1 - self._cpu))
            if self._probe
            else None
        )
        time.sleep(0.05)
        self._log = (self._folder / "stderr").open("w+")
        started = time.monotonic_ns()
        self.process = subprocess.Popen(
            command,
            preexec_fn=pinned(self._cpu),
            stdin=subprocess.PIPE if self.peer.waits else subprocess.DEVNULL,
            stdout=subprocess.PIPE if self.peer.waits else self._log,
            stderr=self._log,
        )
        if self.peer.waits:
            started = self._go()
        if probe is not None:
            self._await(probe, started)
        else:
            self._await_listener()
        self.pids = tree(self.process.pid)
        return self

    def _go(self) -> int:
        """Let a launcher begin that is running and has loaded what it needs; gives when that was."""
        assert self.process.stdin and self.process.stdout
        self.process.stdout.readline()
        started = time.monotonic_ns()
        with self.process.stdin as pipe:
            pipe.write(b"go\n")
        self.process.stdout.close()
        return started

    def _await_listener(self) -> None:
        """For a server without TLS: until it takes connections, and has its workers."""
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2) as one:
                one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                if one.recv(100):
                    return
            time.sleep(0.02)
        self.__exit__()
        raise StartError(f"{self.peer.name}: {self._tail}")

    def _await(self, probe: "subprocess.Popen[bytes]", started: int) -> None:
        while probe.poll() is None and self.process.poll() is None:
            time.sleep(0.02)
        probe.terminate()
        answer = json.loads(probe.communicate()[0] or "{}")
        if "t_success_ns" not in answer:
            self.__exit__()
            raise StartError(f"{self.peer.name}: {answer} {self._tail}")
        self.start_ms = (answer["t_success_ns"] - started) / 1e6
        time.sleep(0.15)

    def __exit__(self, *_: object) -> None:
        pids = tree(self.process.pid)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(3)
        for pid in pids:
            # What is left of the tree as it was before the signal.
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._log.seek(0)
        self._tail = self._log.read()[-600:]
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)
