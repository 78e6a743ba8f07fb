"""Become a program on a host that offers less: `weaker_host.py [--deny NAMES] [--memlock BYTES] PROGRAM ARGUMENT…`.

`--deny` is a list of profile names, separated by commas. `--memlock` also takes CAP_IPC_LOCK away, which would lift the
limit. x86-64 only: the filter knows system calls by number.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import resource
import struct

PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, CAP_IPC_LOCK = 22, 2, 24, 38, 14
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000

NO_KEYRING = {248: errno.EPERM, 249: errno.EPERM, 250: errno.EPERM}
NO_SECRET_MEMORY = {447: errno.ENOSYS}
# What Docker's default profile refuses an unprivileged container: keyrings, mounts and namespaces, bpf, perf, NUMA
# policies, modules, kexec, clocks, io_uring, userfaultfd; clone3 as if the kernel did not know it.
CONTAINER_NUMBERS = (
    "134 135 139 153 155 163 164 165 166 167 168 169 172 173 175 176 179 212 227 237 238 239 246 256 272 279 298 300 "
    "304 308 312 313 320 321 323 425 426 427 428 429 430 431 432 433"
)
CONTAINER = NO_KEYRING | dict.fromkeys(map(int, CONTAINER_NUMBERS.split()), errno.EPERM)
PROFILES = {
    "keyring": NO_KEYRING,
    "memfd_secret": NO_SECRET_MEMORY,
    "container": CONTAINER | {435: errno.ENOSYS},
    # Before memfd_secret was on Docker's list.
    "old-container": CONTAINER | {435: errno.ENOSYS, 447: errno.EPERM},
}


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def deny(refused: dict[int, int]) -> None:
    """Install a filter for this process and what it becomes."""
    code = struct.pack("<HBBI", LOAD_WORD, 0, 0, 0)
    for number, error in refused.items():
        code += struct.pack("<HBBI", JUMP_EQUAL, 0, 1, number) + struct.pack(
            "<HBBI", RETURN, 0, 0, REFUSE | error
        )
    code += struct.pack("<HBBI", RETURN, 0, 0, ALLOW)
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(code) // 8, code)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "no filter")


def main() -> None:
    """Weaken, then become the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--deny", default="")
    parser.add_argument("--memlock", type=int)
    parser.add_argument("program", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.memlock is not None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (given.memlock, given.memlock))
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)
    for name in filter(None, given.deny.split(",")):
        deny(PROFILES[name])
    os.execv(given.program[0], given.program)


if __name__ == "__main__":
    main()
