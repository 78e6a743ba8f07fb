"""Confinement of the gate's two processes on Linux.

Keyholder: no core, no tracer, no network, no other program, no writing elsewhere. Decider: no look into keyholder's folder
and no writing outside its own, so that whoever takes decider over can neither read the master key, although both run
as one user, nor leave something behind that runs as this user later.

What the kernel does not offer is said by the answers, and the gate goes on: it must start on old kernels and in
containers too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from unlatch.memguard.posture import landlock, process, seccomp

_DEVICES = Path("/dev")


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


def confine_decider(own: Path, *, hidden: Path) -> bool:
    """Let this process change files in `own` only and see nothing of `hidden`. Call it before any thread is made.

    Its processes to come inherit that. Files that appear later beside the ancestors of `hidden` are out of reach too.

    Returns:
        Whether it holds.
    """
    if sys.platform != "linux" or not process.give_up_privileges():
        return False
    rules = [(Path("/"), landlock.LIST), (own, landlock.ALL), (_DEVICES, landlock.WRITE_FILE)]
    return landlock.restrict(landlock.ALL, [*rules, *_beside(hidden.resolve())])


def _beside(folder: Path) -> Iterator[tuple[Path, int]]:
    """Reading everything but a folder: at each of its ancestors, the entries that do not lead to it."""
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
            yield Path(entry.path), landlock.READS | landlock.EXECUTE
