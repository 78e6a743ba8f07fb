"""Confinement of the gate's two processes on Linux.

Keyholder: no core, no tracer, no network, no other program, no writing elsewhere. Decider: no look into keyholder's folder,
nor at what opens a protected master key, and no writing outside its own folder, so that whoever takes decider over can
neither read the master key, although both run as one user, nor leave something behind that runs as this user later.

What the kernel does not offer is said by the answers, and the gate goes on: it must start on old kernels and in
containers too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from unlatch.gate.master import CREDENTIAL
from unlatch.memguard.custodian.tss import RAW_DEVICE, RESOURCE_MANAGER
from unlatch.memguard.posture import landlock, process, seccomp

_DEVICES = tuple(Path("/dev") / name for name in ("null", "zero", "full", "tty", "ptmx", "pts"))


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


def confine_decider(own: Path, *, hidden: Iterable[Path]) -> bool:
    """Let this process change files in `own` only and see nothing of `hidden`. Call it before any thread is made.

    Its processes to come inherit that. Files that appear later beside the ancestors of `hidden` are out of reach too.

    Args:
        own: a folder.
        hidden: folders and files; those that are not there stay out of reach when they appear.

    Returns:
        Whether it holds.
    """
    if sys.platform != "linux" or not process.give_up_privileges():
        return False
    rules = [
        (Path("/"), landlock.LIST),
        (own, landlock.ALL),
        *((path, landlock.WRITE_FILE) for path in _DEVICES),
    ]
    return landlock.restrict(landlock.ALL, [*rules, *_outside({path.resolve() for path in hidden})])


def keys_of_hardware() -> Iterator[Path]:
    """What opens a protected master key: the service manager's credential, a token's PIN, the TPM itself."""
    if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
        yield Path(folder) / CREDENTIAL
        yield Path(folder) / "pkcs11-pin"
    if named := os.environ.get("UNLATCH_PKCS11_PIN_FILE"):
        yield Path(named)
    yield RESOURCE_MANAGER
    yield RAW_DEVICE


def _outside(hidden: Collection[Path]) -> Iterator[tuple[Path, int]]:
    """Reading everything but some places: at each of their ancestors, the entries that lead to none of them."""
    ancestors = {parent for place in hidden for parent in place.parents}
    for folder in ancestors:
        try:
            entries = list(os.scandir(folder))
        except OSError:  # a folder that is not there, or that this user may cross but not list: what lies beside the way is not ours
            continue
        for entry in entries:
            path = Path(entry.path)
            if path in ancestors or path in hidden or entry.is_symlink():
                continue  # a link leads to what another rule allows, or not
            yield path, landlock.READS | landlock.EXECUTE
