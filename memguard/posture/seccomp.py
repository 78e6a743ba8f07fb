"""Which system calls a Python process may make: a short list of refusals, answered EPERM.

A list of what is allowed would change with every library; guard, in Rust, has one. Refused here is what a taken-over
process needs next: other programs, other processes' memory, sockets, namespaces, modules, keys.
Sources: seccomp(2), linux/filter.h, linux/audit.h, asm/unistd_64.h and asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Collection, Iterable

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_RET_ALLOW, _RET_ERRNO, _RET_KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LD_ABS, _JEQ, _JGE, _RET = 0x20, 0x15, 0x35, 0x06
_X32_BIT = 0x40000000
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16

# Numbers on x86_64 and aarch64.
NUMBERS: dict[str, tuple[int, int]] = {
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "bind": (49, 200), "listen": (50, 201),
    "accept4": (288, 242), "socketpair": (53, 199), "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "io_uring_setup": (425, 425),
    "pidfd_getfd": (438, 438), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "mount": (165, 40),
    "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "personality": (135, 92),
}  # fmt: skip
PROGRAMS = ("execve", "execveat")
MEMORY_OF_OTHERS = ("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd")
SOCKETS = ("socket", "connect", "accept", "accept4", "bind", "listen", "socketpair")
SERVING = ("accept", "accept4", "bind", "listen")
KERNEL = (
    "io_uring_setup", "bpf", "perf_event_open", "userfaultfd", "mount", "umount2", "pivot_root", "chroot", "unshare",
    "setns", "init_module", "finit_module", "delete_module", "kexec_load", "open_by_handle_at", "personality",
)  # fmt: skip
KEYS = ("add_key", "request_key", "keyctl")


def refuse(names: Iterable[str], *, domains: Collection[int] | None = None) -> bool:
    """Refuse system calls to this thread and its threads from now on.

    Privileges must have been given up (`process.give_up_privileges`).

    Args:
        names: of NUMBERS.
        domains: socket domains that `socket` may still make; None leaves it to `names`.

    Returns:
        Whether it holds; other machines than x86_64 and aarch64 have no table.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _ARCHITECTURES:
        return False
    program = filter_program(machine, list(names), domains)
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    answer = libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(head), 0, 0)
    return bool(answer == 0)


def filter_program(machine: str, names: list[str], domains: Collection[int] | None) -> bytes:
    """Write a classic BPF program: another architecture dies, refused calls give EPERM, the rest passes."""
    column = 0 if machine == "x86_64" else 1
    if domains is not None and not domains:
        names, domains = [*(name for name in names if name != "socket"), "socket"], None
    refused = [NUMBERS[name][column] for name in names if domains is None or name != "socket"]
    # socket(domain, …): the first argument's low half stands at offset 16 (little-endian machines).
    checks = [] if domains is None else [(_LD_ABS, 0, 0, 16), *((_JEQ, 0, 0, domain) for domain in domains)]
    steps = [
        (_LD_ABS, 0, 0, 4),
        (_JEQ, 1, 0, _ARCHITECTURES[machine]),
        (_RET, 0, 0, _RET_KILL),
        (_LD_ABS, 0, 0, 0),
    ]
    tail = len(refused) + (len(checks) + 1 if checks else 0)
    # Jumps count the steps that they leave out. After the tests stand ALLOW and then EPERM.
    steps.append((_JGE, tail + 1, 0, _X32_BIT))
    for place, number in enumerate(refused):
        steps.append((_JEQ, tail - place, 0, number))
    if checks:
        steps.append((_JEQ, 0, len(checks), NUMBERS["socket"][column]))
        steps.append(checks[0])
        for place, (code, _, _, domain) in enumerate(checks[1:], start=1):
            last = place == len(checks) - 1
            # The last domain that does not fit leaves ALLOW out.
            steps.append((code, len(checks) - 1 - place, 1 if last else 0, domain))
    steps += [(_RET, 0, 0, _RET_ALLOW), (_RET, 0, 0, _RET_ERRNO | errno.EPERM)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
