"""What a host has to offer, judged: kernel, limits, and the ways by which memory leaves it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from unlatch.memguard.doctor.facts import Host
from unlatch.memguard.doctor.finding import Finding, failure, ok, warning

LOCKED_BYTES = 16 << 20
"""What guard wants to lock (docs/guard.md)."""
FILES_OF_ITS_OWN = 200
EARLIEST = 1735689600
"""2025-01-01: no clock that is right is before this program."""
_ACTIONS = frozenset({"kill_process", "errno", "trap", "allow"})
_VERSION = re.compile(r"(\d+)\.(\d+)")
_NEEDS_LINUX = "unlatch serve needs Linux; sealing, opening and approving work here"


def check(host: Host) -> Iterator[Finding]:
    """Judge what this kernel and its settings give guard."""
    if host.system != "Linux":
        yield warning(f"this is {host.system}", "kernel", _NEEDS_LINUX)
        return
    yield _kernel(host)
    yield _secret_memory(host)
    yield _keyring(host)
    yield _landlock(host)
    yield _seccomp(host)
    yield _locked_memory(host)
    yield _swap(host)
    yield _cores(host)
    yield _tracing(host)
    yield _clock(host)


def open_files(host: Host, *, connections: int, workers: int) -> Finding:
    """Judge the limit of open files: every connection of a client may have one to an upstream."""
    needed = 2 * connections + FILES_OF_ITS_OWN * workers
    where = "limit of open files"
    if host.open_files is None or host.open_files >= needed:
        shown = "none" if host.open_files is None else str(host.open_files)
        return ok(f"{shown} for {connections} connections", where)
    return warning(
        f"{host.open_files}, and limits.connections is {connections}: up to {needed} files may be open",
        where,
        f"LimitNOFILE={needed} in the unit, or lower limits.connections",
    )


def _kernel(host: Host) -> Finding:
    match = _VERSION.match(host.release)
    if match is None:
        return warning(
            f"version {host.release!r} is not one of Linux", "kernel", "compare with docs/guard.md"
        )
    version = int(match[1]), int(match[2])
    if version < (5, 10):
        return warning(
            f"Linux {host.release} is older than 5.10",
            "kernel",
            "boot a kernel that still gets fixes; 6.5 has all that guard uses",
        )
    return ok(f"Linux {host.release}, {host.machine}", "kernel")


def _secret_memory(host: Host) -> Finding:
    if host.secret_memory is None:
        return ok("secret memory is there", "memfd_secret")
    return warning(
        f"no secret memory ({host.secret_memory}): guard's parts lie in ordinary locked pages, which root can read",
        "memfd_secret",
        "Linux 6.5 or newer, or boot with secretmem.enable=1; in a container let its profile allow memfd_secret",
    )


def _keyring(host: Host) -> Finding:
    if host.keyring is None:
        return ok("a process keyring is there", "keyring")
    return warning(
        f"no process keyring ({host.keyring}): the root of the pads lies in locked pages beside the parts",
        "keyring",
        "in a container let its profile allow add_key and keyctl; else look at /proc/key-users for the quota",
    )


def _landlock(host: Host) -> Finding:
    if host.landlock:
        return ok(f"ABI {host.landlock}", "landlock")
    return warning(
        "no landlock: the system call filter alone keeps files away",
        "landlock",
        "Linux 5.13 or newer with landlock in lsm= of the kernel's command line",
    )


def _seccomp(host: Host) -> Finding:
    missing = _ACTIONS - host.seccomp
    if not missing:
        return ok("filters are there", "seccomp")
    return failure(
        f"no system call filter with {', '.join(sorted(missing))}: guard does not start",
        "seccomp",
        "boot a kernel with CONFIG_SECCOMP_FILTER",
    )


def _locked_memory(host: Host) -> Finding:
    where = "limit of locked memory"
    if host.may_lock_all or host.locked_bytes is None:
        return ok("none", where)
    if host.locked_bytes >= LOCKED_BYTES:
        return ok(f"{host.locked_bytes >> 20} MiB for this user's processes", where)
    return warning(
        f"{host.locked_bytes >> 10} KiB in this shell, and guard wants {LOCKED_BYTES >> 20} MiB: more secrets do not fit, stacks are not hidden",
        where,
        "LimitMEMLOCK=infinity in the unit; ulimit -l in a shell",
    )


def _swap(host: Host) -> Finding:
    disks = [device for device, kind in host.swaps.items() if kind == "disk"]
    if disks:
        return warning(
            "memory goes to a disk in clear: not guard's, but that of programs started by unlatch exec, and of every other server",
            f"swap on {', '.join(disks)}",
            "encrypt it (crypttab: swap,cipher=aes-xts-plain64, a key from /dev/urandom), use zram, or swapoff",
        )
    return ok(", ".join(f"{device}: {kind}" for device, kind in host.swaps.items()) or "none", "swap")


def _cores(host: Host) -> Finding:
    if host.suid_dumpable not in (None, "0"):
        return warning(
            f"programs that change their user leave core files (fs.suid_dumpable is {host.suid_dumpable})",
            "core files",
            "sysctl fs.suid_dumpable=0",
        )
    return ok(
        f"unlatch's own processes leave none; those of others go to {host.core_pattern or 'nowhere'}",
        "core files",
    )


def _tracing(host: Host) -> Finding:
    if host.ptrace_scope in ("1", "2", "3"):
        return ok(f"kernel.yama.ptrace_scope is {host.ptrace_scope}", "tracing")
    state = "this kernel has no Yama" if host.ptrace_scope is None else "kernel.yama.ptrace_scope is 0"
    return warning(
        f"{state}: programs of one user read each other's memory, unlatch's own processes excepted",
        "tracing",
        "boot with yama in lsm=, then sysctl kernel.yama.ptrace_scope=1",
    )


def _clock(host: Host) -> Finding:
    if host.now < EARLIEST:
        return failure(
            "the clock is before 2025: certificates and receipts will not verify",
            "clock",
            "set it: timedatectl set-ntp true",
        )
    return ok("is plausible", "clock")
