"""What this host says of itself. Reads and probes, judges nothing; every probe leaves things as they were."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unlatch.memguard.posture import landlock

MEMFD_SECRET, ADD_KEY, KEYCTL = 447, {"x86_64": 248, "aarch64": 217}, {"x86_64": 250, "aarch64": 219}
_PROCESS_KEYRING, _KEYCTL_UNLINK = -2, 9
_CAP_IPC_LOCK = 14
SwapKind = Literal["disk", "encrypted", "memory"]


@dataclass(frozen=True, slots=True)
class Host:
    """Facts. An error is its text; None says that a probe went well, `unknown` that this system has no such thing."""

    system: str = "Linux"
    release: str = ""
    machine: str = "x86_64"
    is_root: bool = False
    secret_memory: str | None = None
    keyring: str | None = None
    landlock: int = 0
    seccomp: frozenset[str] = frozenset()
    """Actions that filters may have; empty without seccomp."""
    locked_bytes: int | None = None
    """RLIMIT_MEMLOCK; None without limit."""
    may_lock_all: bool = False
    open_files: int | None = None
    """Hard limit; None without."""
    swaps: Mapping[str, SwapKind] = field(default_factory=dict)
    core_pattern: str | None = None
    suid_dumpable: str | None = None
    ptrace_scope: str | None = None
    now: float = 0.0


def gather(now: float) -> Host:
    """Look at this host.

    Args:
        now: Unix seconds.
    """
    if sys.platform != "linux":
        return Host(system=platform.system(), release=platform.release(), machine=platform.machine(), now=now)
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Host(
        system=platform.system(),
        release=platform.release(),
        machine=platform.machine(),
        is_root=os.geteuid() == 0,
        secret_memory=_probe_secret_memory(),
        keyring=_probe_keyring(platform.machine()),
        landlock=landlock.version(),
        seccomp=frozenset((_sysctl("kernel/seccomp/actions_avail") or "").split()),
        locked_bytes=None if soft == resource.RLIM_INFINITY else soft,
        may_lock_all=_has_capability(_CAP_IPC_LOCK),
        open_files=None if files == resource.RLIM_INFINITY else files,
        swaps=_swaps(),
        core_pattern=_sysctl("kernel/core_pattern"),
        suid_dumpable=_sysctl("fs/suid_dumpable"),
        ptrace_scope=_sysctl("kernel/yama/ptrace_scope"),
        now=now,
    )


def swaps_of(text: str, *, is_encrypted: Mapping[str, bool]) -> dict[str, SwapKind]:
    """Read /proc/swaps.

    Args:
        text: the file.
        is_encrypted: by device, for device-mapper ones.
    """
    found: dict[str, SwapKind] = {}
    for device in _devices(text):
        if device.startswith("/dev/zram"):
            found[device] = "memory"
        else:
            found[device] = "encrypted" if is_encrypted.get(device) else "disk"
    return found


def _probe_secret_memory() -> str | None:
    """Make and map a page of it, as guard does."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(MEMFD_SECRET, 0)
    if descriptor < 0:
        return os.strerror(ctypes.get_errno())
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        with mmap.mmap(descriptor, mmap.PAGESIZE) as page:
            page[:1] = b"x"
    except OSError as error:
        return str(error.strerror)
    finally:
        os.close(descriptor)
    return None


def _probe_keyring(machine: str) -> str | None:
    """Put a key into the keyring of this process, and take it out again."""
    if machine not in ADD_KEY:
        return "not known on this machine"
    libc = ctypes.CDLL(None, use_errno=True)
    payload = b"unlatch doctor"
    serial = libc.syscall(
        ADD_KEY[machine], b"user", payload, payload, ctypes.c_size_t(len(payload)), _PROCESS_KEYRING
    )
    if serial < 0:
        return os.strerror(ctypes.get_errno())
    libc.syscall(KEYCTL[machine], _KEYCTL_UNLINK, serial, _PROCESS_KEYRING)
    return None


def _has_capability(number: int) -> bool:
    for line in _text(Path("/proc/self/status")).splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> number & 1)
    return False


def _swaps() -> dict[str, SwapKind]:
    text = _text(Path("/proc/swaps"))
    encrypted = {}
    for device in _devices(text):
        name = Path(device).resolve().name
        encrypted[device] = _text(Path("/sys/block") / name / "dm" / "uuid").startswith("CRYPT-")
    return swaps_of(text, is_encrypted=encrypted)


def _devices(text: str) -> list[str]:
    return [fields[0] for line in text.splitlines()[1:] if (fields := line.split())]


def _sysctl(name: str) -> str | None:
    return _text(Path("/proc/sys") / name).strip() or None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
