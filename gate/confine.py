"""Confinement of keyholder on Linux: no core, no tracer, no network, no other program, no writing elsewhere.

What the kernel does not offer is said by `confine`'s answer, and keyholder goes on: the gate must start on old kernels
and in containers too. Sources: prctl(2), seccomp(2), landlock(7), filter numbers of linux/audit.h and unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
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
    return {"not_dumpable": not_dumpable, "landlock": _landlock(libc, writable), "seccomp": _seccomp(libc)}


def _landlock(libc: ctypes.CDLL, writable: Path) -> bool:
    attributes = ctypes.create_string_buffer(struct.pack("=Q", _LANDLOCK_WRITES), 8)
    ruleset = libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return False
    folder = os.open(writable, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.create_string_buffer(struct.pack("=Qi", _LANDLOCK_WRITES, folder), 12)
        if libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0) != 0:
            return False
        return bool(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(folder)
        os.close(ruleset)


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
