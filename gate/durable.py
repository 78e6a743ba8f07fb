"""Files that keep what was written when the machine stops: append or replace, then fsync, then go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from unlatch.errors import ConfigError
from unlatch.memguard._native import Secret

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def make_folder(path: Path) -> None:
    """Make a folder that only its owner may enter.

    Raises:
        ConfigError: it exists, or its parent does not.
    """
    try:
        path.mkdir(mode=PRIVATE_FOLDER)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {path}: {error.strerror}") from error
    sync_folder(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Write a whole file so that after a crash either the old or the new one stands there."""
    _replace(path, lambda descriptor: _write_all(descriptor, data))


def replace_secret(path: Path, secret: Secret) -> None:
    """The same for a secret."""
    _replace(path, secret.write_fd)


def _replace(path: Path, put: Callable[[int], None]) -> None:
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        put(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make names that were made or changed in a folder last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Journal:
    """Lines that were acknowledged only after they were on disk. A torn last line was never acknowledged and is cut off."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE_FILE)
        sync_folder(path.parent)
        self.lines = self._load()

    def append(self, line: bytes) -> None:
        """Add a line; returns when it is on disk."""
        if b"\n" in line:
            raise ValueError("a line with a line break in it")
        end = os.fstat(self._descriptor).st_size
        try:
            _write_all(self._descriptor, line + b"\n")
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise
        self.lines.append(line)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def _load(self) -> list[bytes]:
        pieces: list[bytes] = []
        while piece := os.pread(self._descriptor, 1 << 20, sum(map(len, pieces))):
            pieces.append(piece)
        whole, _, torn = b"".join(pieces).rpartition(b"\n")
        if torn:
            os.ftruncate(self._descriptor, len(whole) + (1 if whole else 0))
            os.fsync(self._descriptor)
        return whole.split(b"\n") if whole else []


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
