"""The challenge that decider gives to hosts: one for all of them, for ten seconds. It keeps nothing for anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from unlatch.gate.identity import MAX_AGE_SECONDS
from unlatch.gate.keyholder_client import KeyholderClient

FRESH_SECONDS = 10.0
MARGIN_SECONDS = 10.0
"""Decider stops taking a challenge so long before keyholder does, which looks a moment later."""
USABLE_SECONDS = MAX_AGE_SECONDS - MARGIN_SECONDS


class Challenges:
    """Asks keyholder for a challenge when the last one is no longer fresh.

    Args:
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, keyholder: KeyholderClient, *, monotonic: Callable[[], float]) -> None:
        self._keyholder, self._monotonic = keyholder, monotonic
        self._lock = asyncio.Lock()
        self._text, self._until = "", float("-inf")

    async def current(self) -> str:
        """The challenge of these seconds."""
        async with self._lock:
            if self._monotonic() >= self._until:
                self._text = str((await self._keyholder.ask("challenge"))["challenge"])
                self._until = self._monotonic() + FRESH_SECONDS
            return self._text
