"""The processes of the demo: each is started by `unlatch` as a user would, and none outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from unlatch.errors import UnlatchError

START_SECONDS = 20.0
T = TypeVar("T")


class DemoError(UnlatchError):
    """A step of the demo did not work."""


class Cast:
    """Starts commands and ends them, children included."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        self.environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
        }

    def run(
        self, *arguments: str, check: bool = True, stdin: bytes = b"", extra: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `unlatch ARGUMENTS` to its end, with more variables."""
        result = subprocess.run(
            [sys.executable, "-m", "unlatch", *arguments],
            input=stdin,
            capture_output=True,
            env=self.environment | dict(extra or {}),
            cwd=self.folder,
            check=False,
            timeout=60,
        )
        if check and result.returncode != 0:
            raise DemoError(
                f"unlatch {' '.join(arguments[:2])} ended with {result.returncode}: {last_line(result.stderr)}"
            )
        return result

    def start(
        self, *arguments: str, log: Path, extra: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `unlatch ARGUMENTS` with its standard error in a file, with more variables."""
        return self.start_program([sys.executable, "-m", "unlatch", *arguments], log=log, extra=extra)

    def private(self, name: str) -> BinaryIO:
        """A new file that only its owner reads."""
        descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        return os.fdopen(descriptor, "wb")

    def start_program(
        self, argv: list[str], *, log: Path, extra: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start any program in a session of its own."""
        with log.open("ab") as file:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self.environment | dict(extra or {}),
                cwd=self.folder,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def end(self) -> None:
        """End everything that was started: politely, then by force, each with its whole session."""
        for process in reversed(self._running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        for process in reversed(self._running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def last_line(output: bytes) -> str:
    """What a failed command said last, without its hint."""
    lines = [line for line in output.decode(errors="replace").splitlines() if line and "hint:" not in line]
    return lines[-1] if lines else "no message"


def events(log: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of a log."""
    for line in log.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict):
                yield content


def wait_for(what: str, look: Callable[[], T | None], *, seconds: float = START_SECONDS) -> T:
    """What `look` gives, once it gives something."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise DemoError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.05)
    return found
