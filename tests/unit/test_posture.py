"""Confinement of Python processes: each measure is tried in a child that must be refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from unlatch.errors import ConfigError
from unlatch.memguard.posture import environment, landlock, seccomp

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def child(code: str, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Run code in a fresh Python; gives what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CONFINED = """
import os, socket, sys, ctypes
from unlatch.memguard.posture import landlock, process, seccomp
from pathlib import Path
def tried(act):
    try:
        act()
    except OSError as error:
        return type(error).__name__
    return "done"
process.give_up_privileges()
"""


@LINUX
def test_refused_calls_fail_and_others_go_on() -> None:
    told = child(
        CONFINED
        + "assert seccomp.refuse([*seccomp.SOCKETS, *seccomp.PROGRAMS, *seccomp.MEMORY_OF_OTHERS])\n"
        + "print(tried(lambda: socket.socket()), tried(lambda: os.execv('/bin/true', ['true'])),"
        + " ctypes.CDLL(None).ptrace(0, 0, 0, 0), tried(lambda: os.listdir('/')))"
    )

    assert told == "PermissionError PermissionError -1 done"


@LINUX
@pytest.mark.parametrize(
    ("domains", "expected"),
    [
        ([], "PermissionError PermissionError PermissionError"),
        ([seccomp.AF_UNIX], "done PermissionError PermissionError"),
        ([seccomp.AF_UNIX, seccomp.AF_INET], "done done PermissionError"),
        ([seccomp.AF_INET, seccomp.AF_INET6, seccomp.AF_UNIX], "done done done"),
    ],
)
def test_only_some_kinds_of_socket_may_be_made(domains: list[int], expected: str) -> None:
    told = child(
        CONFINED
        + f"assert seccomp.refuse(['ptrace'], domains={domains})\n"
        + "print(*(tried(lambda: socket.socket(d).close()) for d in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)))"
    )

    assert told == expected


def test_programs_of_both_machines_jump_inside_themselves() -> None:
    import struct

    for machine in ("x86_64", "aarch64"):
        for domains in (None, [], [1], [1, 2, 10]):
            program = seccomp.filter_program(machine, list(seccomp.NUMBERS), domains)
            steps = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
            assert all(
                place + 1 + max(yes, no) < len(steps) for place, (_, yes, no, _) in enumerate(steps[:-1])
            )
            assert [step[0] for step in steps[-2:]] == [6, 6]


@LINUX
def test_files_outside_the_rules_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_text("a")
    (tmp_path / "out").write_text("b")

    told = child(
        CONFINED
        + "root = Path(sys.argv[1])\n"
        + "assert landlock.restrict(landlock.ALL, [(root / 'in', landlock.READS), (root / 'gone', landlock.ALL)])\n"
        + "print(tried(lambda: (root / 'in/a').read_text()), tried(lambda: (root / 'in/a').write_text('x')),"
        + " tried(lambda: (root / 'out').read_text()), tried(lambda: (root / 'new').write_text('x')))",
        str(tmp_path),
    )

    assert told == "done PermissionError PermissionError PermissionError"
    assert (tmp_path / "in/a").read_text() == "a"


@LINUX
def test_writing_may_be_left_to_one_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").write_text("b")

    told = child(
        CONFINED
        + "root = Path(sys.argv[1])\n"
        + "assert landlock.restrict(landlock.WRITES, [(root / 'in', landlock.WRITES)])\n"
        + "print(tried(lambda: (root / 'in/a').write_text('x')), tried(lambda: (root / 'out').read_text()),"
        + " tried(lambda: os.truncate(root / 'out', 0)))",
        str(tmp_path),
    )

    assert told.startswith("done done")
    if landlock.version() >= 3:
        assert told == "done done PermissionError"


@LINUX
def test_tcp_may_be_refused() -> None:
    if landlock.version() < 4:
        pytest.skip("this kernel's landlock knows no TCP")
    told = child(
        CONFINED
        + "assert landlock.restrict(0, [], no_tcp=True) or landlock.restrict(landlock.EXECUTE, [], no_tcp=True)\n"
        + "print(tried(lambda: socket.create_server(('127.0.0.1', 0))))"
    )

    assert told == "PermissionError"


REQUIRE = "from unlatch.memguard.posture import environment; environment.require(); "


@LINUX
def test_process_starts_itself_again_with_the_hard_environment() -> None:
    told = child(
        REQUIRE
        + "import os, sys; print(environment.is_hard(), sys.argv[1:], os.environ.get(environment.MARK))",
        "a b",
        env={"PATH": "/usr/bin:/bin", "SSLKEYLOGFILE": "/tmp/x", "LD_PRELOAD": "", "KEEP": "1"},
    )

    assert told == "True ['a b'] None"


@LINUX
def test_isolated_python_is_started_again_too() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            REQUIRE + "import sys; print(environment.is_hard(), sys.flags.safe_path)",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout.strip() == "True True", done.stderr


@LINUX
def test_environment_that_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.MARK, "1")

    with pytest.raises(ConfigError, match="does not hold"):
        environment.require()


FREED = """
import ctypes, sys
kept = []
def make():
    text = ("needle-%d-" % 77) * 8
    return text.encode()
secret = make()
address = id(secret) + bytes.__basicsize__ - 1
size = len(secret)
del secret
print(ctypes.string_at(address, size).count(b"needle-77-"))
"""


@LINUX
def test_freed_bytes_are_overwritten_only_in_the_hard_environment() -> None:
    """Reads freed memory on purpose, at once."""
    plain = child(FREED, env={"PATH": "/usr/bin:/bin"})
    hard = child(FREED, env=environment.hard({"PATH": "/usr/bin:/bin"}))

    assert int(plain) > 0  # the control: without it the bytes stay
    assert int(hard) == 0


def test_hard_environment_drops_what_changes_a_program() -> None:
    given = {
        "PATH": "/bin", "LD_PRELOAD": "/x.so", "LD_LIBRARY_PATH": "/x", "PYTHONPATH": "/x", "SSLKEYLOGFILE": "/x",
        "OPENSSL_CONF": "/x", "MALLOC_TRACE": "/x", "GLIBC_TUNABLES": "x", "HTTPS_PROXY": "kept",
    }  # fmt: skip

    assert environment.hard(given) == {"PATH": "/bin", "HTTPS_PROXY": "kept", **environment.HARD}
