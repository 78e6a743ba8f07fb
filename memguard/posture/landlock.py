"""Which files a process may touch. Source: landlock(7).

Handled rights are refused everywhere but below the paths of the rules. A kernel that is too old refuses less; one
without landlock refuses nothing, and `restrict` says so.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
WRITES = WRITE_FILE | sum(1 << bit for bit in range(4, 13))
"""Every right of ABI 1 that changes a file system: write, remove, make."""
TRUNCATE = 1 << 14
READS = READ_FILE | READ_DIR
LIST = READ_DIR
ALL = (1 << 13) - 1
"""Every right of ABI 1."""
_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
"""Rights that a rule for a single file may have."""
_NET_BIND, _NET_CONNECT = 1 << 0, 1 << 1
_TRUNCATE_ABI, _NET_ABI = 3, 4
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION = 1

Rule = tuple[Path, int]


def version() -> int:
    """Give the kernel's landlock ABI; 0 without landlock."""
    if sys.platform != "linux":
        return 0
    answer = ctypes.CDLL(None, use_errno=True).syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)
    return max(int(answer), 0)


def restrict(handled: int, rules: Iterable[Rule], *, no_tcp: bool = False) -> bool:
    """Refuse `handled` rights outside the rules to this thread, its threads and its children.

    Privileges must have been given up (`process.give_up_privileges`).

    Args:
        handled: rights of ABI 1; truncation is handled with writing where the kernel can.
        rules: paths with the rights they keep; missing ones stay closed.
        no_tcp: also refuse TCP, where the kernel can.

    Returns:
        Whether it holds.
    """
    abi = version()
    if abi == 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    truncates = abi >= _TRUNCATE_ABI and handled & WRITE_FILE
    handled |= TRUNCATE if truncates else 0
    network = _NET_BIND | _NET_CONNECT if no_tcp and abi >= _NET_ABI else 0
    shape = struct.pack("=QQ", handled, network) if abi >= _NET_ABI else struct.pack("=Q", handled)
    attributes = ctypes.create_string_buffer(shape, len(shape))
    ruleset = libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(shape)), 0)
    if ruleset < 0:
        return False
    try:
        for path, rights in rules:
            if truncates and rights & WRITE_FILE:
                rights |= TRUNCATE
            _allow(libc, ruleset, path, rights & handled)
        return bool(libc.syscall(_RESTRICT, ruleset, 0) == 0)
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
            rights &= _FILE
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
        libc.syscall(_ADD, ruleset, 1, rule, 0)
    finally:
        os.close(descriptor)
