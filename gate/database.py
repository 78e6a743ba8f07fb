"""Decider's database: open, migrate, and append to the audit log in the same transaction as every change.

Rule 1: a change and its audit entries are one transaction; without the entry there is no change.
Rule 2: positions in the log have no gaps; one writer at a time (a lock here, the primary key in the database).
Rule 3: the tree in memory grows only after the commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from unlatch.gate import tables
from unlatch.gate.entry import read_entry
from unlatch.gate.merkle import Tree, leaf_hash

DECIDER = "decider"
"""The folder of decider's own files, beside keyholder's."""


def database_url(folder: Path) -> str:
    """The SQLite database of a gate's folder."""
    return f"sqlite+aiosqlite:///{folder / DECIDER / 'gate.db'}"


def open_engine(url: str) -> AsyncEngine:
    """An engine whose SQLite commits are on disk when they return."""
    engine = create_async_engine(url)
    if url.startswith("sqlite"):
        sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


async def migrate(engine: AsyncEngine) -> None:
    """Bring the tables to this build's revision."""
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade)


class Book:
    """One transaction: its connection, and the audit entries that it adds."""

    def __init__(self, connection: AsyncConnection, start: int) -> None:
        self.connection = connection
        self.leaves: list[bytes] = []
        self.afterwards: list[Callable[[], None]] = []
        self._start = start

    async def record(self, entry: bytes) -> int:
        """Add an audit entry and give its position."""
        position, leaf = self._start + len(self.leaves), leaf_hash(entry)
        row = {"position": position, "kind": read_entry(entry)["kind"], "leaf": leaf, "entry": entry}
        await self.connection.execute(sa.insert(tables.audit_entries).values(row))
        self.leaves.append(leaf)
        return position

    def after_commit(self, tell: Callable[[], None]) -> None:
        """Call something when the change is on disk."""
        self.afterwards.append(tell)

    async def execute(self, statement: sa.Executable) -> sa.CursorResult[Any]:
        """Run one statement inside the transaction."""
        return await self.connection.execute(statement)


class Ledger:
    """The database and the audit log's tree over it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._lock = asyncio.Lock()
        self._is_unsure = False
        self.tree = Tree()

    async def load(self) -> None:
        """Read the leaves that are new into memory: 32 bytes for each entry, and as much again for the nodes."""
        async with self._engine.connect() as connection:
            column = tables.audit_entries.c
            query = sa.select(column.leaf).where(column.position >= len(self.tree))
            for row in await connection.execute(query.order_by(column.position)):
                self.tree.append(row.leaf)

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Book]:
        """A transaction with its audit entries; rolled back whole when the block raises."""
        async with self._lock:
            if self._is_unsure:
                await self.load()
            # A commit that was cancelled or failed may be on disk or not: the next change looks.
            self._is_unsure = True
            async with self._engine.begin() as connection:
                book = Book(connection, start=len(self.tree))
                yield book
            for leaf in book.leaves:
                self.tree.append(leaf)
            self._is_unsure = False
            for tell in book.afterwards:
                tell()

    async def fetch(self, statement: sa.Select[Any]) -> list[sa.Row[Any]]:
        """Read rows outside a change."""
        async with self._engine.connect() as connection:
            return list(await connection.execute(statement))

    async def entries(self, start: int, end: int) -> list[bytes]:
        """The audit entries at positions `start` to `end` - 1."""
        column = tables.audit_entries.c
        query = sa.select(column.entry).where(column.position >= start, column.position < end)
        return [row.entry for row in await self.fetch(query.order_by(column.position))]

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()


def _prepare_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for setting in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "busy_timeout=5000",
        "temp_store=MEMORY",
    ):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
