"""`unlatch demo`, as a newcomer runs it."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from support.product import UNLATCH, environment, eventually

pytestmark = pytest.mark.e2e

HSM_ROWS = (
    "the token before approval",
    "the token after approval",
    "20 handshakes on the token's key",
    "take the key out, PIN in hand",
    "kill -9 custodian",
)
PIN_ROWS = (
    *(f"PIN, token in {name}" for name in ("custodian 0", "guard", "edge", "egress", "supervisor")),
    "control: PIN in a plain server",
)
TPM_ROWS = ("who asks, on the card", "approved thief without this TPM", "PCR 11 changed")


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


@pytest.mark.interop
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--hsm",), {*HSM_ROWS, *PIN_ROWS}),
        (("--tpm",), {*TPM_ROWS, "key, token in guard"}),
        (("--tpm", "--hsm"), {*HSM_ROWS, *PIN_ROWS, *TPM_ROWS}),
    ],
    ids=" ".join,
)
def test_hardware_holds_too(tmp_path: Path, options: tuple[str, ...], wanted: set[str]) -> None:
    output, errors = started(tmp_path, *options, "--auto").communicate(timeout=110)
    rows = output.decode().splitlines()

    assert [line for line in rows[1:-1] if not line.endswith(" ok")] == [], errors.decode()
    assert wanted <= {re.split(r"  +", line)[0] for line in rows}
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "hint"),
    [("--hsm", "apt-get install"), ("--tpm", "apt-get install")],
)
def test_missing_part_is_named_with_the_line_to_run(tmp_path: Path, option: str, hint: str) -> None:
    program = (
        "import shutil, sys; from unlatch.tools.demo import software_token; shutil.which = lambda name: None;"
        "software_token.FOLDERS = (); sys.argv = ['unlatch', 'demo', sys.argv[1]];"
        "from unlatch.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, option], capture_output=True, env=environment(tmp_path), timeout=60
    )
    error, advice = done.stderr.decode().splitlines()

    assert done.returncode == 21
    assert option in error
    assert hint in advice


@pytest.mark.interop
@pytest.mark.parametrize(("number", "options"), [(signal.SIGINT, ()), (signal.SIGTERM, ("--tpm", "--hsm"))])
def test_interrupt_leaves_no_process_and_no_file(
    tmp_path: Path, number: signal.Signals, options: tuple[str, ...]
) -> None:
    demo = started(tmp_path, *options)
    assert demo.stderr
    for line in demo.stderr:
        if line.startswith(b"proxy started"):
            break
    busy = processes_of(tmp_path)
    os.kill(demo.pid, number)
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
    address = re.search(rb"card (http://localhost:\d+/r/\w+)", seen)
    assert address
    with urllib.request.urlopen(address[1].decode(), timeout=10) as card:
        page = card.read()
    os.write(ours, b"a")
    while b"audit verified" not in seen:
        seen += os.read(ours, 4096)
    output, _ = demo.communicate(timeout=30)
    os.close(ours)

    assert demo.returncode == 0
    assert b"NOT OK" not in output
    assert b"in another terminal" in seen
    assert b"pay asks to open its secrets" in page
