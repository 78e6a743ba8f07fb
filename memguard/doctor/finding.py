"""What a check says: how bad it is, what it is, where, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warning", "failure"]
WELL, FAILURES, WARNINGS = 0, 22, 23


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor. `where` names a file, a setting or a place of the system; `next` is for people."""

    level: Level
    what: str
    where: str
    next: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def ok(what: str, where: str) -> Finding:
    """Something is as it should be."""
    return Finding("ok", what, where)


def warning(what: str, where: str, then: str) -> Finding:
    """It works, and is weaker than it could be or will fail one day."""
    return Finding("warning", what, where, then)


def failure(what: str, where: str, then: str | None) -> Finding:
    """It does not work."""
    return Finding("failure", what, where, then)


def exit_code(findings: Iterable[Finding]) -> int:
    """22 for a failure, else 23 for a warning, else 0."""
    levels = {one.level for one in findings}
    return FAILURES if "failure" in levels else WARNINGS if "warning" in levels else WELL
