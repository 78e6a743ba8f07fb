"""A page of locked memory that Python may write: where a PIN passes on its way into a C library.

`Secret` is for keeping; this is for handing over. Both are left out of core dumps and wiped.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from unlatch.errors import ConfigError
from unlatch.memguard._native import Secret

_LIBC = ctypes.CDLL(None, use_errno=True)


class LockedPage:
    """Writable memory, locked, wiped by `close`. `address` is good until then."""

    def __init__(self, size: int) -> None:
        """Get `size` bytes.

        Raises:
            ConfigError: memory may not be locked.
        """
        self._map = mmap.mmap(-1, size)
        self.size = size
        self._array = (ctypes.c_char * size).from_buffer(self._map)
        self.address = ctypes.addressof(self._array)
        self.view = memoryview(self._map)
        if hasattr(mmap, "MADV_DONTDUMP"):
            self._map.madvise(mmap.MADV_DONTDUMP)
        if _LIBC.mlock(ctypes.c_void_p(self.address), ctypes.c_size_t(size)) != 0:
            self.close()
            raise ConfigError(
                "memory may not be locked",
                hint="raise the limit on locked memory: ulimit -l 8192, or LimitMEMLOCK= in the unit",
            )

    def wipe(self) -> None:
        """Overwrite everything with zeros."""
        ctypes.memset(self.address, 0, self.size)

    def close(self) -> None:
        """Wipe and give back."""
        self.wipe()
        self.view.release()
        del self._array
        # A slice that somebody kept holds the map; it is wiped in any case.
        with suppress(BufferError):
            self._map.close()


@contextmanager
def locked(size: int) -> Iterator[LockedPage]:
    """Use a page for one block."""
    page = LockedPage(size)
    try:
        yield page
    finally:
        page.close()


@contextmanager
def copied(secret: Secret) -> Iterator[LockedPage]:
    """Use a page that holds a secret's bytes, and nothing else."""
    with locked(max(len(secret), 1)) as page:
        with secret.expose() as source:
            page.view[: len(source)] = source
        yield page
