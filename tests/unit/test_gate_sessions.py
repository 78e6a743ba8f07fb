"""Sessions: one signature, eight hours, read only."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.gate_world import GATE, NOW, World

from unlatch.errors import RefusedError
from unlatch.gate.database import DECIDER, Ledger, database_url, migrate, open_engine
from unlatch.gate.enrolment import Suspend
from unlatch.gate.sessions import CHALLENGE_SECONDS, SESSION_SECONDS, SessionError, Sessions
from unlatch.gate.statement import SESSION_NAMESPACE, session_message
from unlatch.gate.tables import sessions as table

ORIGIN = "https://people.example"


class Bench:
    """Sessions over a database of their own, and a clock that goes when told."""

    def __init__(self, folder: Path) -> None:
        (folder / DECIDER).mkdir(exist_ok=True)
        self.now = float(NOW)
        self.world = World(operators=("jo",))
        counter = itertools.count(1)
        self.engine = open_engine(database_url(folder))
        self.ledger = Ledger(self.engine)
        self.sessions = Sessions(
            self.ledger, secret=bytes(32), now=lambda: self.now, random_bytes=lambda size: next(counter).to_bytes(size, "big")
        )  # fmt: skip

    async def open(self, nonce: str, *, by: str = "jo", origin: str = ORIGIN) -> str:
        signature = self.world.keys[by].sign(
            session_message(gate=GATE, origin=origin, nonce=nonce), namespace=SESSION_NAMESPACE
        )
        token, _, _ = await self.sessions.open(
            nonce=nonce, signature=signature, roster=self.world.roster, origin=ORIGIN
        )
        return token

    async def who(self, token: str) -> str:
        return (await self.sessions.check(f"Bearer {token}", roster=self.world.roster)).name


def run(folder: Path, use: object) -> None:
    async def main() -> None:
        bench = Bench(folder)
        await migrate(bench.engine)
        try:
            await use(bench)  # type: ignore[operator]
        finally:
            await bench.ledger.close()

    asyncio.run(main())


def test_session_lasts_eight_hours(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        token = await bench.open(bench.sessions.challenge())
        bench.now += SESSION_SECONDS - 1
        assert await bench.who(token) == "jo"
        bench.now += 1
        with pytest.raises(SessionError, match="over"):
            await bench.who(token)

    run(tmp_path, use)


def test_suspension_ends_the_session(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        token = await bench.open(bench.sessions.challenge())
        bench.world.enrol(Suspend(name="jo"))
        with pytest.raises(SessionError):
            await bench.who(token)

    run(tmp_path, use)


def test_challenge_holds_two_minutes_and_once(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        late, used = bench.sessions.challenge(), bench.sessions.challenge()
        await bench.open(used)
        with pytest.raises(SessionError):
            await bench.open(used)
        bench.now += CHALLENGE_SECONDS + 1
        with pytest.raises(SessionError):
            await bench.open(late)
        with pytest.raises(SessionError):
            await bench.open(used)

    run(tmp_path, use)


def test_failed_signatures_use_up_no_challenge(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        nonce = bench.sessions.challenge()
        for who, origin in (("stranger", ORIGIN), ("jo", "https://evil.example")):
            with pytest.raises(RefusedError):
                await bench.open(nonce, by=who, origin=origin)
        assert await bench.who(await bench.open(nonce)) == "jo"

    run(tmp_path, use)


@pytest.mark.parametrize("nonce", ["", "AAAA", "A" * 75, "!", "A" * 74 + "="])
def test_invented_challenge_is_refused(tmp_path: Path, nonce: str) -> None:
    async def use(bench: Bench) -> None:
        with pytest.raises(SessionError):
            await bench.open(nonce)

    run(tmp_path, use)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic x", "Bearer x", "bearer"])
def test_header_that_names_no_session_is_refused(tmp_path: Path, header: str | None) -> None:
    async def use(bench: Bench) -> None:
        with pytest.raises(SessionError):
            await bench.sessions.check(header, roster=bench.world.roster)

    run(tmp_path, use)


def test_token_is_not_in_the_database(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        token = await bench.open(bench.sessions.challenge())
        (row,) = await bench.ledger.fetch(sa.select(table))
        assert token not in str(row)

    run(tmp_path, use)
