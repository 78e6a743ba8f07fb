"""Files that appear whole or not at all, readable by their owner only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from unlatch.bootstrap.sealed import MAX_BYTES, SealedFile
from unlatch.errors import ConfigError
from unlatch.memguard._native import Secret

OWNER_ONLY = 0o600
PUBLIC = 0o644


def read_sealed(path: Path) -> SealedFile:
    """Read and parse a sealed file.

    Raises:
        ConfigError: it cannot be read.
        DamagedFileError: it breaks the format.
    """
    try:
        with path.open("rb") as file:
            # One byte more than may be, so that a larger file is refused and not cut.
            return SealedFile.parse(file.read(MAX_BYTES + 4096))
    except OSError as error:
        raise ConfigError(f"cannot read the sealed file: {error.strerror}, {path}") from error


def read_secret(path: Path, limit: int) -> Secret:
    """Read a file straight into locked memory.

    Raises:
        ConfigError: it cannot be read, or has more than `limit` bytes.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot read: {error.strerror}, {path}") from error
    try:
        return Secret.read_fd(fd, limit)
    except OSError as error:
        raise ConfigError(f"cannot read: {error.strerror}, {path}") from error
    finally:
        os.close(fd)


def write_secret(path: Path, secret: Secret, *, force: bool = False) -> None:
    """Write a secret out, mode 0600; see `write`."""
    _write(path, secret.write_fd, force=force, mode=OWNER_ONLY)


def write_by(path: Path, put: Callable[[int], None], *, force: bool = False) -> None:
    """Write a file of mode 0600 whole; `put` gets its descriptor. See `write`."""
    _write(path, put, force=force, mode=OWNER_ONLY)


def write(path: Path, data: bytes, *, force: bool = False, mode: int = OWNER_ONLY) -> None:
    """Write a file whole.

    Raises:
        ConfigError: it exists and `force` is not given, or cannot be written.
    """

    def put(fd: int) -> None:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)

    _write(path, put, force=force, mode=mode)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Say early that a file is in the way, before anyone is asked for anything.

    Raises:
        ConfigError: it exists and `force` is not given.
    """
    if not force and os.path.lexists(path):
        raise ConfigError(f"{path} exists", hint="choose another name, or overwrite it with --force")


def _write(path: Path, put: Callable[[int], None], *, force: bool, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            os.fchmod(fd, mode)
            put(fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        if force:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists", hint="choose another name, or overwrite it with --force"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot write: {error.strerror}, {path}") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
