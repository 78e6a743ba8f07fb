"""Confinement of the gate's two processes on Linux.

Keyholder: no core, no tracer, no network, no other program, no writing elsewhere. Decider: everything but keyholder's
folder, so that whoever takes decider over cannot read the master key although both run as one user.

What the kernel does not offer is said by the answers, and the gate goes on: it must start on old kernels and in
containers too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from unlatch.memguard.posture import landlock, process, seccomp

_FILE = landlock.EXECUTE | landlock.WRITE_FILE | landlock.READ_FILE


def confine(writable: Path) -> dict[str, bool]:
    """Take from this process what it does not need; only `writable` may be changed from here on.

    Returns:
        Each measure and whether it holds.
    """
    not_dumpable = process.close_to_others()
    process.end_with_parent()
    if not process.give_up_privileges():
        return {"not_dumpable": not_dumpable, "landlock": False, "seccomp": False}
    files = landlock.restrict(landlock.WRITES, [(writable, landlock.WRITES)])
    calls = seccomp.refuse(
        [*seccomp.SOCKETS, *seccomp.PROGRAMS, *seccomp.MEMORY_OF_OTHERS, *seccomp.KERNEL, *seccomp.KEYS]
    )
    return {"not_dumpable": not_dumpable, "landlock": files, "seccomp": calls}


def hide(folder: Path) -> bool:
    """Take a folder from this process; its processes to come inherit that. Call it before any thread is made.

    Files that appear later beside the folder's ancestors are out of reach too.

    Returns:
        Whether it holds.
    """
    if sys.platform != "linux" or not process.give_up_privileges():
        return False
    return landlock.restrict(landlock.ALL, [(Path("/"), landlock.LIST), *_beside(folder.resolve())])


def _beside(folder: Path) -> Iterator[tuple[Path, int]]:
    """Everything but a folder: at each of its ancestors, the entries that do not lead to it."""
    for child in (folder, *folder.parents[:-1]):
        try:
            entries = list(os.scandir(child.parent))
        except (
            PermissionError
        ):  # a folder that this user may cross but not list: what lies beside the way is not ours
            continue
        for entry in entries:
            if entry.name == child.name or entry.is_symlink():
                continue  # a link leads to what another rule allows, or not
            yield Path(entry.path), landlock.ALL if entry.is_dir(follow_symlinks=False) else _FILE
