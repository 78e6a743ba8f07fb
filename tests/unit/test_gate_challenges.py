"""One challenge for everybody, for ten seconds; however many ask, keyholder signs once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from unlatch.gate.challenges import FRESH_SECONDS, USABLE_SECONDS, Challenges
from unlatch.gate.identity import MAX_AGE_SECONDS
from unlatch.gate.keyholder_client import KeyholderClient
from unlatch.gate.wire import KeyholderGoneError


class FakeKeyholder:
    """Counts what it signs."""

    def __init__(self) -> None:
        self.signed = 0
        self.is_gone = False

    async def ask(self, question: str, **_: Any) -> dict[str, Any]:
        assert question == "challenge"
        if self.is_gone:
            raise KeyholderGoneError("keyholder has ended")
        self.signed += 1
        await asyncio.sleep(0)
        return {"challenge": str(self.signed)}


class Clock:
    now = 5.0

    def __call__(self) -> float:
        return self.now


def test_crowd_gets_one_challenge_and_the_next_seconds_another() -> None:
    async def ask() -> None:
        keyholder, clock = FakeKeyholder(), Clock()
        challenges = Challenges(cast("KeyholderClient", keyholder), monotonic=clock)

        assert set(await asyncio.gather(*(challenges.current() for _ in range(100)))) == {"1"}
        clock.now += FRESH_SECONDS - 0.1
        assert await challenges.current() == "1"
        clock.now += 0.1
        assert await challenges.current() == "2"

    asyncio.run(ask())


def test_keyholder_that_ended_gives_none() -> None:
    async def ask() -> None:
        keyholder = FakeKeyholder()
        keyholder.is_gone = True
        with pytest.raises(KeyholderGoneError):
            await Challenges(cast("KeyholderClient", keyholder), monotonic=Clock()).current()

    asyncio.run(ask())


def test_decider_stops_before_keyholder_does() -> None:
    assert FRESH_SECONDS < USABLE_SECONDS < MAX_AGE_SECONDS
