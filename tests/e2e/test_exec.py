"""`unlatch exec`: a program gets secrets by file, descriptor or variable, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gate import Gate, code_in
from support.opened_by_key import Keyed, seal_keyed
from support.product import UNLATCH, Running, environment, eventually, is_running
from support.sealed_site import TOKEN as SITE_TOKEN
from support.sealed_site import Site

pytestmark = pytest.mark.e2e

TOKEN = "tok-6b1d0c4f-2b1a-4d3c-8f9e-a1b0c3d2e5f4"
MOUNT_POINT = Path("/run/unlatch-exec")
WEAKER = [
    sys.executable,
    str(Path(__file__).parents[1] / "support" / "weaker_host.py"),
    "--deny",
    "container",
]
LOOK = """
import json, os, pathlib, stat
folder = pathlib.Path(os.environ["CREDENTIALS_DIRECTORY"])
mode = lambda path: stat.S_IMODE(path.stat().st_mode)
mounts = [line.split() for line in open("/proc/self/mounts")]
print(json.dumps({
    "folder": str(folder), "mode": mode(folder), "owner": folder.stat().st_uid,
    "mount": [[one[2], one[3].split(",")[0]] for one in mounts if one[1] == str(folder)],
    "files": {one.name: [mode(one), one.read_text()] for one in folder.iterdir()},
}))
"""
HOLD = 'echo "$$ $CREDENTIALS_DIRECTORY" > held.new && mv held.new held && exec sleep 60'


@pytest.fixture
def keyed(tmp_path: Path) -> Keyed:
    return seal_keyed(tmp_path, token=TOKEN)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder of the host's tmpfs."""
    folder = Path("/dev/shm") / f"unlatch-test-{os.getpid()}"
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


def line(keyed: Keyed, *arguments: str) -> list[str]:
    return [*UNLATCH, "exec", keyed.file, "--recovery-key", keyed.key, *arguments]


def run(
    keyed: Keyed,
    *arguments: str,
    before: tuple[str, ...] = (),
    extra: dict[str, str] | None = None,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*before, *line(keyed, *arguments)],
        cwd=keyed.folder, env=environment(keyed.folder) | (extra or {}), capture_output=True, input=stdin, timeout=60,
        check=False,
    )  # fmt: skip


def held(keyed: Keyed) -> tuple[int, Path]:
    """Process number and folder, as the program wrote them."""
    path = keyed.folder / "held"
    words = eventually("the program", lambda: path.read_text().split() if path.exists() else None)
    return int(words[0]), Path(words[1])


def test_files_lie_in_memory_for_the_program_alone(keyed: Keyed) -> None:
    assert os.geteuid() == 0, "a mount of one's own needs root"
    done = run(keyed, "--secret", "psp", "--secret", "tls=key.pem", "--", sys.executable, "-c", LOOK)
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout)

    assert (seen["folder"], seen["mode"], seen["owner"]) == (str(MOUNT_POINT), 0o700, 0)
    assert seen["mount"] == [["ramfs", "ro"]]
    assert seen["files"]["psp"] == [0o400, TOKEN]
    assert seen["files"]["key.pem"][0] == 0o400
    assert "PRIVATE KEY" in seen["files"]["key.pem"][1]
    assert set(seen["files"]) == {"psp", "key.pem"}


def test_without_a_word_every_secret_is_a_file(keyed: Keyed) -> None:
    done = run(keyed, "--", sys.executable, "-c", LOOK)

    assert set(json.loads(done.stdout)["files"]) == {"psp", "tls"}


def test_host_sees_no_file_while_the_program_runs_nor_after_a_kill(keyed: Keyed) -> None:
    with Running(line(keyed, "--", "sh", "-c", HOLD), folder=keyed.folder, name="exec") as running:
        pid, folder = held(keyed)
        on_host = list(MOUNT_POINT.iterdir())
        inside = sorted(one.name for one in Path(f"/proc/{pid}/root{folder}").iterdir())
        running.process.kill()
        running.process.wait()

    assert pid == running.process.pid, "it became the program: there is nothing in between"
    assert inside == ["psp", "tls"]
    assert on_host == list(MOUNT_POINT.iterdir()) == []


def test_mount_does_not_reach_the_host(keyed: Keyed) -> None:
    before = Path("/proc/self/mountinfo").read_text().count("unlatch-exec")
    assert run(keyed, "--", "true").returncode == 0

    assert Path("/proc/self/mountinfo").read_text().count("unlatch-exec") == before == 0


def test_files_of_a_host_that_lets_nobody_mount_go_with_the_program(keyed: Keyed, in_memory: Path) -> None:
    extra = {"XDG_RUNTIME_DIR": str(in_memory)}
    done = run(keyed, "--secret", "psp", "--", sys.executable, "-c", LOOK, before=tuple(WEAKER), extra=extra)
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout)

    assert Path(seen["folder"]).parent == in_memory
    assert (seen["mode"], seen["mount"], seen["files"]) == (0o700, [], {"psp": [0o400, TOKEN]})
    eventually("an empty folder", lambda: True if not list(in_memory.iterdir()) else None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_program_leaves_no_file_there_either(
    keyed: Keyed, in_memory: Path, number: signal.Signals
) -> None:
    argv = [*WEAKER, *line(keyed, "--", "sh", "-c", HOLD)]
    with Running(
        argv, folder=keyed.folder, name="exec", extra={"XDG_RUNTIME_DIR": str(in_memory)}
    ) as running:
        pid, folder = held(keyed)
        names = sorted(one.name for one in folder.iterdir())
        os.kill(pid, number)
        code = running.process.wait()

    assert (names, code) == (["psp", "tls"], -number)
    eventually("an empty folder", lambda: True if not list(in_memory.iterdir()) else None)


def test_failed_opening_leaves_no_folder(keyed: Keyed, in_memory: Path) -> None:
    (keyed.folder / keyed.key).write_text("{}")
    done = run(keyed, "--", "true", before=tuple(WEAKER), extra={"XDG_RUNTIME_DIR": str(in_memory)})

    assert done.returncode == 125
    eventually("an empty folder", lambda: True if not list(in_memory.iterdir()) else None)


def test_another_user_than_root_gets_files_of_his_own(tmp_path: Path, in_memory: Path) -> None:
    home = in_memory / "home"
    home.mkdir()
    seal_keyed(home, token=TOKEN)
    for one in (in_memory, home, *home.iterdir()):
        os.chown(one, 65534, 65534)
    # Nobody may read where Python is installed on some machines: he gets this one right.
    reading = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *reading)
    keyed = Keyed(home, TOKEN)
    extra = {"XDG_RUNTIME_DIR": str(in_memory)}
    done = run(keyed, "--", sys.executable, "-c", LOOK, before=nobody, extra=extra)
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout)

    assert (seen["mode"], seen["owner"], set(seen["files"])) == (0o700, 65534, {"psp", "tls"})
    eventually("an empty folder", lambda: True if list(in_memory.iterdir()) == [home] else None)


def test_descriptor_is_read_once(keyed: Keyed) -> None:
    script = 'cat <&5; echo; cat <&5; echo "${CREDENTIALS_DIRECTORY-none}"'
    done = run(keyed, "--fd", "psp=5", "--", "sh", "-c", script)

    assert done.stdout.decode() == f"{TOKEN}\nnone\n", done.stderr.decode()


def test_several_descriptors_and_standard_input(keyed: Keyed) -> None:
    done = run(
        keyed, "--fd", "psp=0", "--fd", "tls=3", "--fd", "psp=4", "--", "sh", "-c", "cat; cat <&4; cat <&3"
    )

    assert done.stdout.decode().startswith(TOKEN + TOKEN + "-----BEGIN PRIVATE KEY-----")


def test_variable_is_for_who_asks_for_it(keyed: Keyed) -> None:
    done = run(keyed, "--insecure-env", "psp=TOKEN", "--", "env", extra={"TOKEN": "old", "KEPT": "yes"})
    lines = done.stdout.decode().splitlines()

    assert [line for line in lines if line.startswith("TOKEN=")] == [f"TOKEN={TOKEN}"]
    assert "KEPT=yes" in lines
    assert not any(line.startswith("CREDENTIALS_DIRECTORY=") for line in lines)


def test_raw_file_holds_one_secret(tmp_path: Path) -> None:
    keyed = seal_keyed(tmp_path, token=TOKEN, raw=b"raw\0bytes")
    by_file = run(keyed, "--", "sh", "-c", 'cat "$CREDENTIALS_DIRECTORY/secret"')
    by_variable = run(keyed, "--insecure-env", "secret=A", "--", "env")

    assert by_file.stdout == b"raw\0bytes"
    assert (by_variable.returncode, by_variable.stdout) == (125, b"")
    assert b"zero byte" in by_variable.stderr


@pytest.mark.parametrize("code", [0, 1, 42, 125, 255])
def test_exit_code_is_the_programs(keyed: Keyed, code: int) -> None:
    assert run(keyed, "--fd", "psp=3", "--", "sh", "-c", f"exit {code}").returncode == code


def test_program_is_found_before_anyone_is_asked(keyed: Keyed) -> None:
    (keyed.folder / "script").write_text("no program")
    (keyed.folder / keyed.key).unlink()

    assert run(keyed, "--", "./script").returncode == 126
    assert run(keyed, "--", "no-such-program").returncode == 127
    assert run(keyed, "--secret", "nope", "--", "true").returncode == 125


def test_script_without_interpreter_is_not_executable(keyed: Keyed) -> None:
    script = keyed.folder / "script"
    script.write_text("no program")
    script.chmod(0o755)
    broken = keyed.folder / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)

    assert run(keyed, "--fd", "psp=3", "--", "./script").returncode == 126
    assert run(keyed, "--fd", "psp=3", "--", "./broken").returncode == 127


def test_program_starts_as_if_nobody_had_been_there(keyed: Keyed) -> None:
    """Signals as at first, no descriptors of ours, no limit on core files."""
    script = """
import json, os, resource
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps([status["SigIgn"], os.listdir("/proc/self/fd"), resource.getrlimit(resource.RLIMIT_CORE)]))
"""
    plain = ["sh", "-c", f"exec {sys.executable} -c '{script}'"]
    limits = {}
    for name, argv in (("plain", plain), ("exec", line(keyed, "--fd", "psp=9", "--", *plain))):
        done = subprocess.run(
            argv,
            cwd=keyed.folder,
            env=environment(keyed.folder),
            capture_output=True,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        limits[name] = json.loads(done.stdout)

    assert limits["exec"][0] == limits["plain"][0]
    assert set(limits["exec"][1]) - {"9"} == set(limits["plain"][1])
    assert limits["exec"][2] == limits["plain"][2]


def test_gate_is_asked_as_open_asks_it(gate: Gate, gated: Site) -> None:
    argv = [*UNLATCH, "exec", "pay.jwe", "--secret", "psp", "--reason", "by hand", "--", "sh", "-c"]
    with Running(
        [*argv, 'cat "$CREDENTIALS_DIRECTORY/psp" > got'], folder=gated.folder, name="exec"
    ) as running:
        code = eventually("a code", lambda: code_in(running.text()))
        assert "waiting: pay needs approval" in running.text()
        assert gate.approve(code=code).returncode == 0
        ended = running.wait_for_end()

    assert ended == 0, running.text()
    assert (gated.folder / "got").read_text() == SITE_TOKEN
    assert not is_running(running.process.pid)


def test_denied_opening_starts_nothing(gate: Gate, gated: Site) -> None:
    argv = [*UNLATCH, "exec", "pay.jwe", "--", "touch", "started"]
    with Running(argv, folder=gated.folder, name="exec") as running:
        eventually("a code", lambda: code_in(running.text()))
        assert gate.deny().returncode == 0
        ended = running.wait_for_end()

    assert ended == 125
    assert not (gated.folder / "started").exists()


def test_modes_of_the_host_folder() -> None:
    assert stat.S_IMODE(MOUNT_POINT.stat().st_mode) == 0o755
