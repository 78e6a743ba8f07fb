"""Decider's database: a change and its audit entries are one thing, and the tree follows what is on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from unlatch.gate.database import DECIDER, Ledger, database_url, migrate, open_engine
from unlatch.gate.entry import change_entry
from unlatch.gate.merkle import Tree, leaf_hash
from unlatch.gate.tables import audit_checkpoints, metadata


def entry(number: int) -> bytes:
    return change_entry(request=str(number), before="pending", after="denied", time=number)


def with_ledger(folder: Path, use: Callable[[Ledger], Awaitable[None]]) -> None:
    async def run() -> None:
        (folder / DECIDER).mkdir(exist_ok=True)
        engine = open_engine(database_url(folder))
        await migrate(engine)
        ledger = Ledger(engine)
        await ledger.load()
        try:
            await use(ledger)
        finally:
            await ledger.close()

    asyncio.run(run())


async def add(ledger: Ledger, *numbers: int) -> None:
    async with ledger.change() as book:
        for number in numbers:
            await book.record(entry(number))


def test_entries_get_positions_without_gaps_and_survive_a_restart(tmp_path: Path) -> None:
    async def first(ledger: Ledger) -> None:
        await add(ledger, 0, 1)
        await add(ledger, 2)

    async def second(ledger: Ledger) -> None:
        assert len(ledger.tree) == 3
        assert ledger.tree.root() == Tree(leaf_hash(entry(number)) for number in range(3)).root()
        assert await ledger.entries(1, 3) == [entry(1), entry(2)]

    with_ledger(tmp_path, first)
    with_ledger(tmp_path, second)


def test_change_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    async def use(ledger: Ledger) -> None:
        await add(ledger, 0)
        told: list[str] = []

        async def fail() -> None:
            async with ledger.change() as book:
                await book.record(entry(1))
                book.after_commit(lambda: told.append("told"))
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        assert (len(ledger.tree), told) == (1, [])
        await add(ledger, 2)
        assert await ledger.entries(0, 9) == [entry(0), entry(2)]

    with_ledger(tmp_path, use)


@pytest.mark.parametrize("moment", ["commit", "rollback"])
def test_change_that_is_cancelled_while_it_commits_is_whole_or_not_there(tmp_path: Path, moment: str) -> None:
    async def use(ledger: Ledger) -> None:
        await add(ledger, 0)
        task = asyncio.ensure_future(add(ledger, 1))
        sa.event.listen(ledger._engine.sync_engine, "commit", lambda _: task.cancel(), once=True)
        if moment == "rollback":
            sa.event.listen(ledger._engine.sync_engine, "begin", lambda _: task.cancel(), once=True)
        with pytest.raises(asyncio.CancelledError):
            await task
        await add(ledger, 2)
        found = await ledger.entries(0, 9)

        assert found in ([entry(0), entry(1), entry(2)], [entry(0), entry(2)])
        assert ledger.tree.root() == Tree(map(leaf_hash, found)).root()

    with_ledger(tmp_path, use)


def test_changes_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    async def use(ledger: Ledger) -> None:
        await asyncio.gather(*(add(ledger, number) for number in range(20)))

        assert sorted(await ledger.entries(0, 99)) == sorted(map(entry, range(20)))
        assert len(ledger.tree) == 20

    with_ledger(tmp_path, use)


def test_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    """alembic's comparison of the migrated database with `tables.metadata` finds no difference."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    async def use(ledger: Ledger) -> None:
        async with ledger._engine.connect() as connection:
            found = await connection.run_sync(
                lambda one: compare_metadata(MigrationContext.configure(one), metadata)
            )
        assert found == []

    with_ledger(tmp_path, use)


def test_migration_is_done_once(tmp_path: Path) -> None:
    async def use(ledger: Ledger) -> None:
        async with ledger.change() as book:
            await book.execute(sa.insert(audit_checkpoints).values(size=1, note="n"))

    async def again(ledger: Ledger) -> None:
        assert len(await ledger.fetch(sa.select(audit_checkpoints))) == 1

    with_ledger(tmp_path, use)
    with_ledger(tmp_path, again)


def test_commits_are_on_disk_when_they_return(tmp_path: Path) -> None:
    async def use(ledger: Ledger) -> None:
        async with ledger._engine.connect() as connection:
            assert (await connection.execute(sa.text("PRAGMA synchronous"))).scalar() == 2
            assert (await connection.execute(sa.text("PRAGMA journal_mode"))).scalar() == "wal"
            assert (await connection.execute(sa.text("PRAGMA foreign_keys"))).scalar() == 1

    with_ledger(tmp_path, use)
