"""Does a secret stand in clear in a process's memory? Reads, changes nothing, reports no secret byte.

What it sees: every page that a process has, in the forms of `secret_forms`, whole or any 16 bytes of them. What it does not
see: memory that the kernel hides (memfd_secret), registers, kernel buffers, other forms, and what comes and goes while it
reads. A report is worth what its controls are worth: `marks` that must be there, and a plant (`scan_control`).

How: any run of 15 bytes holds an aligned word of 8. Every word of every form goes into a set; memory is cut into aligned
words; where one is in the set, the run around it is measured.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from unlatch.memguard.process_memory import Block, Memory, NotReadableError, opened
from unlatch.memguard.process_memory import Mapping as Mapped
from unlatch.memguard.secret_forms import PIECE, Form, forms, private_key_forms

__all__ = [
    "PIECE",
    "Form",
    "Index",
    "NotReadableError",
    "Report",
    "Run",
    "forms",
    "private_key_forms",
    "scan",
]

BUFFER = 4 << 20
WORD = 8
_STRETCH = 1 << 16
# Runs of one byte or two, such as zeros, stand everywhere.
_MIN_DIFFERENT = 3


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes in memory that are part of a form."""

    start: int
    size: int
    form: Form
    offset: int

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.start + self.size

    @property
    def is_whole(self) -> bool:
        """Whether every secret byte of the form is there."""
        return all(self.offset <= a and b <= self.offset + self.size for a, b in self.form.secret)


@dataclass(frozen=True, slots=True)
class Report:
    """What one process held."""

    runs: tuple[tuple[str, Run], ...]
    """Each run with the kind of memory that it stands in."""
    bytes_read: int
    unreadable: Mapping[str, int]
    """Bytes that could not be read, by kind of memory; they are not clean, they are unknown."""
    marks: frozenset[str]
    """Names of the marks that were met."""

    @property
    def hits(self) -> int:
        """How many runs were found."""
        return len(self.runs)

    def copies(self) -> dict[str, tuple[int, int]]:
        """For each kind of memory: copies, and how many of them are whole.

        The numbers of one key in one form make one copy, and of several parts the one that is there most often counts.
        """
        return {
            memory: (_copies(runs), _copies(run for run in runs if run.is_whole))
            for memory, runs in self._by_memory().items()
        }

    def found(self) -> dict[str, Counter[str]]:
        """For each kind of memory: how often which form of which part stands there."""
        return {
            memory: Counter(f"{run.form.part}: {run.form.kind}" for run in runs)
            for memory, runs in self._by_memory().items()
        }

    def _by_memory(self) -> dict[str, list[Run]]:
        grouped: dict[str, list[Run]] = {}
        for memory, run in self.runs:
            grouped.setdefault(memory, []).append(run)
        return grouped


def _copies(runs: Iterable[Run]) -> int:
    parts: dict[str, Counter[str]] = {}
    for run in runs:
        parts.setdefault(run.form.kind, Counter())[run.form.part] += 1
    return sum(max(counted.values()) for counted in parts.values())


class Index:
    """What to look for, made searchable once."""

    def __init__(self, wanted: Iterable[Form]) -> None:
        self._short: list[Form] = []
        self._words: dict[int, list[tuple[Form, int]]] = {}
        self.longest = 2 * PIECE
        for form in wanted:
            self.longest = max(self.longest, len(form.data))
            if len(form.data) < PIECE:
                self._short.append(form)
                continue
            for offset in range(len(form.data) - WORD + 1):
                word = form.data[offset : offset + WORD]
                if form.secret_bytes(offset, offset + WORD) and len(set(word)) >= _MIN_DIFFERENT:
                    self._words.setdefault(int.from_bytes(word, "little"), []).append((form, offset))
        self._wanted = frozenset(self._words)

    def runs(self, data: memoryview, start: int) -> list[Run]:
        """Every run in `data`, which stands at address `start`; of runs that overlap the longest."""
        found: list[Run] = []
        seen: dict[tuple[int, int], int] = {}
        for position, word in self._positions(data):
            for form, offset in self._words[word]:
                place = (id(form), position - offset)
                if seen.get(place, -1) < position + WORD:
                    run = _grown(data, position, form, offset)
                    seen[place] = run.end
                    if _counts(run):
                        found.append(Run(start + run.start, run.size, form, run.offset))
        for form in self._short:
            found += (Run(start + at, len(form.data), form, 0) for at in _find(data, form.data))
        return _settled(found)

    def _positions(self, data: memoryview) -> Iterator[tuple[int, int]]:
        """Where an aligned word of a form stands, and which."""
        words = data[: len(data) // WORD * WORD].cast("Q")
        for first in range(0, len(words), _STRETCH // WORD):
            stretch = words[first : first + _STRETCH // WORD]
            if not self._wanted.isdisjoint(stretch):
                for number, word in enumerate(stretch, start=first):
                    if word in self._wanted:
                        yield number * WORD, word


def scan(pid: int, index: Index, *, marks: Mapping[str, bytes] | None = None) -> Report:
    """Look through one process.

    Args:
        pid: which.
        index: what is looked for.
        marks: byte strings that are looked for by name, as a control; at most 4 KiB each.

    Raises:
        NotReadableError: not root, another user's process, or it ended.
    """
    buffer = bytearray(BUFFER)
    missing = dict(marks or {})
    runs: list[tuple[str, Run]] = []
    unreadable: Counter[str] = Counter()
    read = 0
    try:
        with opened(pid) as memory:
            for mapping in memory.mappings:
                reported, is_gone = 0, None  # asked once for each stretch of pages that cannot be read
                for block in _blocks(memory, mapping, buffer, index):
                    if block.data is None:
                        is_gone = not memory.still_has(block.start) if is_gone is None else is_gone
                        unreadable[mapping.kind] += 0 if is_gone else block.size
                        continue
                    fresh, is_gone = max(block.start, reported), None
                    read += block.size - block.kept
                    for name in [
                        name for name, mark in missing.items() if any(True for _ in _find(block.data, mark))
                    ]:
                        del missing[name]
                    # What begins in the last bytes may go on in the next block, which begins with them.
                    limit = block.start + block.size - (index.longest if block.goes_on else 0)
                    for run in index.runs(block.data, block.start):
                        if fresh <= run.start < limit:
                            runs.append((mapping.kind, run))
                            reported = max(reported, run.end)
    finally:
        buffer[:] = bytes(len(buffer))
    if read == 0:
        raise NotReadableError(f"no page of process {pid} could be read", hint="did it end?")
    return Report(tuple(runs), read, dict(+unreadable), frozenset(marks or {}) - frozenset(missing))


def _blocks(memory: Memory, mapping: Mapped, buffer: bytearray, index: Index) -> Iterator[Block]:
    try:
        yield from memory.blocks(mapping, buffer=buffer, overlap=index.longest)
    except OSError as error:
        raise NotReadableError(
            f"process {memory.pid} cannot be read any more: {error.strerror}", hint="did it end?"
        ) from error


def _grown(data: memoryview, position: int, form: Form, offset: int) -> Run:
    """The longest run around a word that matches; its start is a place in `data`."""
    text = form.data
    begin, end = offset, offset + WORD
    shift = position - offset
    while (
        begin >= PIECE
        and begin + shift >= PIECE
        and data[begin + shift - PIECE : begin + shift] == text[begin - PIECE : begin]
    ):
        begin -= PIECE
    while begin and begin + shift and data[begin + shift - 1] == text[begin - 1]:
        begin -= 1
    while end + PIECE <= len(text) and data[end + shift : end + shift + PIECE] == text[end : end + PIECE]:
        end += PIECE
    while end < len(text) and end + shift < len(data) and data[end + shift] == text[end]:
        end += 1
    return Run(begin + shift, end - begin, form, begin)


def _counts(run: Run) -> bool:
    """Whether a run is long enough, counting secret bytes only, and not of one or two byte values."""
    form, end = run.form, run.offset + run.size
    needed = min(PIECE, form.secret_bytes(0, len(form.data)))
    different = len(set(form.data[run.offset : end]))
    return form.secret_bytes(run.offset, end) >= needed and different > _MIN_DIFFERENT


def _settled(found: list[Run]) -> list[Run]:
    """Of runs that overlap the longest, in order of addresses: a number inside of DER inside of a file is one find."""
    kept: list[tuple[int, int]] = []
    runs: list[Run] = []
    for run in sorted(found, key=lambda one: (-one.size, not one.is_whole, one.start)):
        place = bisect.bisect(kept, (run.start, run.end))
        after = place < len(kept) and kept[place][0] < run.end
        if not after and not (place and kept[place - 1][1] > run.start):
            kept.insert(place, (run.start, run.end))
            runs.append(run)
    return sorted(runs, key=lambda one: one.start)


def _find(data: memoryview, text: bytes) -> Iterator[int]:
    return (match.start() for match in re.finditer(re.escape(text), data))
