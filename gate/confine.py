"""Confinement of the gate's two processes on Linux.

Keyholder: no core, no tracer, no network, no other program, no writing elsewhere. Decider: everything but keyholder's
folder, so that whoever takes decider over cannot read the master key although both run as one user.

What the kernel does not offer is said by the answers, and the gate goes on: it must start on old kernels and in
containers too. Sources: prctl(2), seccomp(2), landlock(7), filter numbers of linux/audit.h and unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_RET_ALLOW, _RET_ERRNO, _RET_KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LD_ABS, _JEQ, _JGE, _RET = 0x20, 0x15, 0x35, 0x06
_X32_BIT = 0x40000000

# Refused system calls by machine: socket, connect, accept, bind, listen, accept4, socketpair, execve, execveat, ptrace,
# process_vm_readv, process_vm_writev, io_uring_setup, pidfd_getfd.
_MACHINES: dict[str, tuple[int, tuple[int, ...]]] = {
    "x86_64": (0xC000003E, (41, 42, 43, 49, 50, 288, 53, 59, 322, 101, 310, 311, 425, 438)),
    "aarch64": (0xC00000B7, (198, 203, 202, 200, 201, 242, 199, 221, 281, 117, 270, 271, 425, 438)),
}

# Landlock: every right of ABI 1 that changes a file system (write, remove, make).
_LANDLOCK_WRITES = (1 << 1) | sum(1 << bit for bit in range(4, 13))
_LANDLOCK_ALL, _LANDLOCK_FILE, _LANDLOCK_LIST = (1 << 13) - 1, 0b111, 1 << 3
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446


def confine(writable: Path) -> dict[str, bool]:
    """Take from this process what it does not need; only `writable` may be changed from here on.

    Returns:
        Each measure and whether it holds.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return {"not_dumpable": False, "landlock": False, "seccomp": False}
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, 15, 0, 0, 0)
    not_dumpable = libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return {"not_dumpable": not_dumpable, "landlock": False, "seccomp": False}
    landlock = _landlock(libc, _LANDLOCK_WRITES, [(writable, _LANDLOCK_WRITES)])
    return {"not_dumpable": not_dumpable, "landlock": landlock, "seccomp": _seccomp(libc)}


def hide(folder: Path) -> bool:
    """Take a folder from this process; its processes to come inherit that. Call it before any thread is made.

    Files that appear later beside the folder's ancestors are out of reach too.

    Returns:
        Whether it holds.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return _landlock(libc, _LANDLOCK_ALL, [(Path("/"), _LANDLOCK_LIST), *_beside(folder.resolve())])


def _beside(folder: Path) -> Iterator[tuple[Path, int]]:
    """Everything but a folder: at each of its ancestors, the entries that do not lead to it."""
    for child in (folder, *folder.parents[:-1]):
        for entry in os.scandir(child.parent):
            if entry.name == child.name or entry.is_symlink():
                continue  # a link leads to what another rule allows, or not
            yield Path(entry.path), _LANDLOCK_ALL if entry.is_dir(follow_symlinks=False) else _LANDLOCK_FILE


def _landlock(libc: ctypes.CDLL, handled: int, allowed: Iterable[tuple[Path, int]]) -> bool:
    attributes = ctypes.create_string_buffer(struct.pack("=Q", handled), 8)
    ruleset = libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return False
    try:
        for path, rights in allowed:
            _allow(libc, ruleset, path, rights)
        return bool(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    """Add a rule. What is gone meanwhile, or is of a kind that landlock knows no rule for, stays closed."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _LANDLOCK_FILE
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0)
    finally:
        os.close(descriptor)


def _seccomp(libc: ctypes.CDLL) -> bool:
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    program = _filter(*machine)
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    return bool(
        libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(head), 0, 0) == 0
    )


def _filter(architecture: int, refused: tuple[int, ...]) -> bytes:
    """A classic BPF program: another architecture dies, refused calls give EPERM, the rest passes."""
    steps = [
        (_LD_ABS, 0, 0, 4),
        (_JEQ, 1, 0, architecture),
        (_RET, 0, 0, _RET_KILL),
        (_LD_ABS, 0, 0, 0),
        (_JGE, len(refused) + 1, 0, _X32_BIT),
    ]
    for place, number in enumerate(refused):
        steps.append((_JEQ, len(refused) - place, 0, number))
    steps += [(_RET, 0, 0, _RET_ALLOW), (_RET, 0, 0, _RET_ERRNO | errno.EPERM)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
