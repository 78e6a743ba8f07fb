"""No core file, no tracer of the same user, no new privileges, no life after the parent. Source: prctl(2)."""

from __future__ import annotations

import ctypes
import resource
import sys

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
SIGTERM = 15


def close_to_others() -> bool:
    """Leave no core file, and let no other process of this user read this one's memory; answer whether it holds."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return _prctl(_PR_SET_DUMPABLE, 0)


def close_memory() -> bool:
    """The same without the limit on core files, which programs that this one becomes would inherit."""
    return _prctl(_PR_SET_DUMPABLE, 0)


def give_up_privileges() -> bool:
    """Let no program that this one starts gain rights; landlock and seccomp ask for it."""
    return _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def end_with_parent() -> bool:
    """Get SIGTERM when the parent ends."""
    return _prctl(_PR_SET_PDEATHSIG, SIGTERM)


def _prctl(option: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)
