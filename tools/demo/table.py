"""The demo's last word: what was expected, what was seen."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """One check."""

    what: str
    expected: str
    seen: str
    holds: bool


@dataclass(slots=True)
class Table:
    """Rows in the order they were checked."""

    rows: list[Row] = field(default_factory=list)

    def add(self, what: str, *, expected: str, seen: str, holds: bool | None = None) -> Row:
        """Note a check; it holds when what was seen is what was expected, unless said otherwise."""
        row = Row(what, expected, seen, seen == expected if holds is None else holds)
        self.rows.append(row)
        return row

    @property
    def holds(self) -> bool:
        """Whether every row held, and there was one."""
        return bool(self.rows) and all(row.holds for row in self.rows)

    def render(self) -> str:
        """Plain text, one line for a row."""
        heads = ("", "expected", "seen", "")
        lines = [
            heads,
            *((row.what, row.expected, row.seen, "ok" if row.holds else "NOT OK") for row in self.rows),
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(4)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
