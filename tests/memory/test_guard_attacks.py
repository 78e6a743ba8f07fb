"""Other processes on guard's host: this user's, and root as long as it does not run code inside guard."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.guard_client import SECONDS, GuardClient, running_guard
from support.guard_site import SCHEMES, GuardSite, variant_program

pytestmark = pytest.mark.memory

USER = 64321
LIBC = ctypes.CDLL(None, use_errno=True)
PIDFD_OPEN, PIDFD_GETFD, KEYCTL, PROCESS_VM_READV = 434, 438, 250, 310
KEYCTL_READ, KEYCTL_SETPERM, KEYCTL_LINK, KEYCTL_DESCRIBE, KEYCTL_SEARCH = 11, 5, 8, 6, 10
SESSION_KEYRING = -3
needs_numbers = pytest.mark.skipif(platform.machine() != "x86_64", reason="system calls by x86-64 numbers")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> GuardSite:
    if os.getuid() != 0:
        pytest.fail("playing another user and root needs root")
    return GuardSite(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def guard(site: GuardSite) -> Iterator[GuardClient]:
    """At work, under a user of its own."""
    with running_guard(arguments=["--user", f"{USER}:{USER}"]) as guard:
        site.unlock(guard)
        edge = guard.edge()
        with contextlib.closing(edge.socket):
            site.handshakes(edge, 5)
            yield guard


ATTEMPTS = """
import ctypes, errno, json, os, sys
pid, uid, mapped = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    return errno.errorcode.get(ctypes.get_errno()) if libc.syscall(*map(ctypes.c_long, arguments)) < 0 else "done"
def opened(path):
    try:
        open(path, "rb").close()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
buffer = ctypes.create_string_buffer(64)
local, remote = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 64), (ctypes.c_void_p * 2)(mapped, 64)
pidfd = libc.syscall(434, pid, 0)
print(json.dumps({
    "mem": opened(f"/proc/{pid}/mem"), "maps": opened(f"/proc/{pid}/maps"), "environ": opened(f"/proc/{pid}/environ"),
    "ptrace": call(101, 0x4206, pid, 0, 0), "pidfd_getfd": call(438, pidfd, 3, 0),
    "process_vm_readv": call(310, pid, ctypes.addressof(local), 1, ctypes.addressof(remote), 1, 0),
}))
"""


def mappings(guard: GuardClient) -> list[tuple[int, int, str, str]]:
    """Start, end, permissions and name."""
    found = []
    for line in Path(f"/proc/{guard.process.pid}/maps").read_text().splitlines():
        parts = line.split(maxsplit=5)
        start, end = (int(value, 16) for value in parts[0].split("-"))
        found.append((start, end, parts[1], parts[5] if len(parts) == 6 else ""))
    return found


@needs_numbers
def test_process_of_the_same_user_gets_nothing(guard: GuardClient) -> None:
    heap = next(start for start, _, _, name in mappings(guard) if name == "[heap]")
    command = [sys.executable, "-c", ATTEMPTS, str(guard.process.pid), str(USER), str(heap)]

    done = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    assert set(done.values()) <= {"EACCES", "EPERM"}, done


@needs_numbers
def test_the_same_attempts_succeed_on_an_ordinary_process() -> None:
    """The control: the kernel of this host lets a user read its own ordinary processes."""
    change = f"os.setresgid({USER}, {USER}, {USER}); os.setresuid({USER}, {USER}, {USER})"
    dumpable = "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)"
    code = f"import ctypes, os, sys; {change}; {dumpable}; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as ordinary:
        assert ordinary.stdout
        ordinary.stdout.readline()
        maps = Path(f"/proc/{ordinary.pid}/maps").read_text().splitlines()
        heap = next(int(line.split("-")[0], 16) for line in maps if line.endswith("[heap]"))
        command = [sys.executable, "-c", ATTEMPTS, str(ordinary.pid), str(USER), str(heap)]
        done = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        ordinary.communicate()

    assert (done["mem"], done["maps"], done["process_vm_readv"], done["ptrace"]) == ("done",) * 4


@needs_numbers
def test_root_cannot_read_secret_memory_from_outside(guard: GuardClient) -> None:
    secret = [one for one in mappings(guard) if one[3].startswith("/secretmem") and one[2].startswith("rw")]
    assert secret
    buffer = ctypes.create_string_buffer(4096)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 4096)
    with Path(f"/proc/{guard.process.pid}/mem").open("rb", buffering=0) as memory:
        for start, end, _, _ in secret:
            for place in range(start, end, 4096):
                memory.seek(place)
                with pytest.raises(OSError, match="Input/output error"):
                    memory.read(4096)
                remote = (ctypes.c_void_p * 2)(place, 4096)
                assert LIBC.syscall(PROCESS_VM_READV, guard.process.pid, local, 1, remote, 1, 0) < 0


@needs_numbers
def test_no_descriptor_of_guard_leads_to_secret_memory(guard: GuardClient) -> None:
    pidfd = LIBC.syscall(PIDFD_OPEN, guard.process.pid, 0)
    links = []
    for number in (int(path.name) for path in Path(f"/proc/{guard.process.pid}/fd").iterdir()):
        taken = LIBC.syscall(PIDFD_GETFD, pidfd, number, 0)
        assert taken >= 0, "root may take descriptors: that is why none must lead there"
        links.append(str(Path(f"/proc/self/fd/{taken}").readlink()))
        os.close(taken)
    os.close(pidfd)

    assert links
    assert not any("secretmem" in link for link in links)


def serials() -> list[int]:
    """Of guard's keys, as /proc/keys would show them to their owner; root sees those that it may view."""
    lines = Path("/proc/keys").read_text().splitlines()
    return [int(line.split()[0], 16) for line in lines if "unlatch-guard" in line]


@needs_numbers
@pytest.mark.parametrize("uid", [0, USER])
def test_roots_of_the_pads_cannot_be_asked_for_from_outside(guard: GuardClient, uid: int) -> None:
    """Neither listed nor read: a serial number has to be guessed, and the right one is refused."""
    assert serials() == []
    found = key_serials_used_by(guard)
    child = os.fork()
    if child == 0:
        if uid:
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        buffer = ctypes.create_string_buffer(64)
        refused = True
        for serial in found:
            for command, argument in (
                (KEYCTL_READ, ctypes.addressof(buffer)),
                (KEYCTL_DESCRIBE, ctypes.addressof(buffer)),
                (KEYCTL_SETPERM, 0x3F3F3F3F),
                (KEYCTL_LINK, SESSION_KEYRING),
            ):
                refused &= LIBC.syscall(KEYCTL, command, serial, ctypes.c_long(argument), 64, 0) < 0
                refused &= ctypes.get_errno() in (errno.EACCES, errno.EPERM)
        os._exit(0 if refused else 1)
    _, status = os.waitpid(child, 0)

    assert len(found) == 2
    assert status == 0


def key_serials_used_by(guard: GuardClient) -> set[int]:
    """Serials that guard passes to keyctl, seen by a tracer that root may be: their numbers are no secret."""
    with subprocess.Popen(
        ["strace", "-f", "-e", "trace=keyctl", "-p", str(guard.process.pid)],
        stderr=subprocess.PIPE,
        text=True,
    ) as tracer:
        assert tracer.stderr
        tracer.stderr.readline()
        guard.reshare()
        guard.reshare()
        tracer.send_signal(signal.SIGINT)
        lines = tracer.stderr.read().splitlines()
    calls = [line.partition("keyctl(KEYCTL_READ, ")[2] for line in lines]
    return {int(call.split(",")[0]) for call in calls if call}


@pytest.mark.parametrize("call", ["socket", "open", "exec", "other-process"])
def test_guard_that_asks_for_what_it_never_needs_is_killed(call: str) -> None:
    environment = {"UNLATCH_TEST_VARIANT": call}
    with running_guard(program=variant_program(), environment=environment, may_fail=True) as guard:
        with contextlib.suppress(ConnectionError):
            guard.status()

        assert guard.process.wait(SECONDS) == -signal.SIGSYS


def test_the_same_calls_are_possible_without_the_filter() -> None:
    """The control: landlock still refuses the file, and nothing is killed."""
    environment = {"UNLATCH_TEST_VARIANT": "unconfined,socket,open,other-process"}
    with running_guard(program=variant_program(), environment=environment, may_fail=True) as guard:
        assert guard.status()["locked"]


def test_full_run_stays_within_the_filter(site: GuardSite) -> None:
    with running_guard() as guard:
        site.unlock(guard)
        edge, egress = guard.edge(), guard.egress()
        for number, name in enumerate(site.keys, 1):
            edge.sign(number, SCHEMES[name], b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32))
            guard.csr(name)
        site.requests(egress, 2)
        edge.ticket_keys()
        guard.reshare()
        edge.socket.close()
        egress.socket.close()
        guard.drop()

        assert guard.status()["trapped_calls"] == {}
