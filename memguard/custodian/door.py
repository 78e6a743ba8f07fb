"""A door that workers pass through and that closes behind the last of them, so that a module can be started again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from unlatch.errors import UnavailableError


class DoorShutError(UnavailableError):
    """The hardware is being found again."""


class Door:
    """Open from the start. Any thread may pass; one thread shuts and opens it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._is_shut = False

    @property
    def is_shut(self) -> bool:
        """Whether nobody gets in."""
        with self._changed:
            return self._is_shut

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Be inside for one block.

        Raises:
            DoorShutError: it is shut; nobody waits here.
        """
        with self._changed:
            if self._is_shut:
                raise DoorShutError("the hardware is being found again")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def shut(self, seconds: float) -> bool:
        """Let nobody in any more, and answer whether everybody left in time."""
        with self._changed:
            self._is_shut = True
            return self._changed.wait_for(lambda: self._inside == 0, seconds)

    def open(self) -> None:
        """Let everybody in."""
        with self._changed:
            self._is_shut = False
