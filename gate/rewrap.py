"""Changing what protects a gate: a new master key, every key wrapped anew, and one moment from which that counts.

Rule 1: each new file stands beside the old one, as NAME.next, before anything is replaced.
Rule 2: the new `master.key` in the old one's place is that moment.
Rule 3: what a stop left in between is finished or thrown away at the next opening, by what the master key opens:
`signing.jwe.next` is written first and goes last, so that it is there whenever another one is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unlatch.bootstrap.pins.hardware import Hardware
from unlatch.errors import DamagedFileError
from unlatch.gate import durable
from unlatch.gate.master import MASTER_BYTES, Protector, protect
from unlatch.gate.wrapped import open_wrapped, wrap
from unlatch.memguard._native import Secret, jwe_verify

SUFFIX = ".next"


def change_protector(folder: Path, old: Secret, protector: Protector, *, hardware: Hardware) -> None:
    """Give a gate a new master key under a new protector. Nobody else may use the folder meanwhile.

    Args:
        folder: DIR/keyholder.
        old: its master key.

    Raises:
        UnlatchError: nothing has changed.
    """
    settle(folder, old)
    new = Secret.random(MASTER_BYTES)
    protected = protect(new, protector, hardware=hardware)
    for path in _keys(folder):
        purpose, public, secret = open_wrapped(path, old)
        durable.replace(_next(path), wrap(new, secret, purpose=purpose, public=public))
        secret.wipe()
    protected.write(folder)
    settle(folder, new)


def settle(folder: Path, master: Secret) -> None:
    """Finish a change that was cut short, or throw away what it had begun."""
    begun = [_next(path) for path in _keys(folder) if _next(path).exists()]
    if not begun:
        return
    counts = _opens(_next(folder / "signing.jwe"), master)
    for path in reversed(begun):
        if counts:
            path.replace(path.with_name(path.name.removesuffix(SUFFIX)))
        else:
            path.unlink()
        durable.sync_folder(path.parent)


def _keys(folder: Path) -> Iterator[Path]:
    """Every wrapped key, the signing key first."""
    for name in ("signing", "log", "clock"):
        yield folder / f"{name}.jwe"
    yield from sorted((folder / "keys").glob("*.jwe"))


def _next(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _opens(path: Path, master: Secret) -> bool:
    try:
        jwe_verify(path.read_bytes(), master)
    except (DamagedFileError, FileNotFoundError):
        return False
    return True
