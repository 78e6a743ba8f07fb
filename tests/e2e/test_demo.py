"""`unlatch demo`, as a newcomer runs it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest
from support.product import UNLATCH, environment, eventually

pytestmark = pytest.mark.e2e


def started(folder: Path, *arguments: str, terminal: int | None = None) -> subprocess.Popen[bytes]:
    """The demo with its temporary folder inside ours."""
    return subprocess.Popen(
        [*UNLATCH, "demo", *arguments],
        stdin=subprocess.DEVNULL if terminal is None else terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if terminal is None else terminal,
        env=environment(folder) | {"TMPDIR": str(folder)},
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """A test run in the background of a shell ignores SIGINT; a person's terminal does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def processes_of(folder: Path) -> list[int]:
    """Every process with this folder in its environment or as its working folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal():
                place = str((entry / "cwd").readlink()).encode() + (entry / "environ").read_bytes()
                found += [int(entry.name)] * (str(folder).encode() in place)
        except OSError:
            continue
    return found


def test_everything_holds_and_nothing_is_left(tmp_path: Path) -> None:
    output, errors = started(tmp_path).communicate(timeout=110)
    rows = output.decode().splitlines()

    assert b"waiting: pay needs approval" in errors
    assert all(line.endswith(" ok") for line in rows[1:-1])
    assert len(rows) > 15
    assert rows[-1].startswith("times: ")
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


def test_interrupt_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    demo = started(tmp_path)
    assert demo.stderr
    for line in demo.stderr:
        if line.startswith(b"proxy started"):
            break
    busy = processes_of(tmp_path)
    os.kill(demo.pid, signal.SIGINT)
    demo.communicate(timeout=30)

    assert len(busy) > 5
    assert demo.returncode == 130
    assert list(tmp_path.iterdir()) == []
    assert eventually("the end of every process", lambda: True if not processes_of(tmp_path) else None)


def test_person_presses_a(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    demo = started(tmp_path, terminal=theirs)
    os.close(theirs)
    seen = b""
    while b"press a to approve" not in seen:
        seen += os.read(ours, 4096)
    os.write(ours, b"a")
    while b"audit verified" not in seen:
        seen += os.read(ours, 4096)
    output, _ = demo.communicate(timeout=30)
    os.close(ours)

    assert demo.returncode == 0
    assert b"NOT OK" not in output
    assert b"in another terminal" in seen
