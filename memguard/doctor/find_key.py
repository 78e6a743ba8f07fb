"""Where is my key? Looks for a key and a token in the memory of running servers, any servers.

Rule 1: nothing is changed and nothing is stopped.
Rule 2: two controls. A plant shows that every form is found; in each process, what must stand there (the program's head, its
command line) shows that its memory was really read.
Rule 3: what could not be read is unknown. It is told, and the answer is then not "none found".
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlatch.errors import UsageError
from unlatch.memguard.doctor import plant, processes
from unlatch.memguard.process_memory import NotReadableError
from unlatch.memguard.scan import Index, Report, scan
from unlatch.memguard.secret_forms import Form, decoy_of, forms, key_forms, load_private_key, public_mark

CLEAN, FOUND, COULD_NOT_LOOK = 0, 20, 22
PROGRAM, COMMAND_LINE, PUBLIC = "program", "command line", "public key"
MAX_MARK = 4096
MIN_MARK = 16


@dataclass(frozen=True, slots=True)
class Sought:
    """What is looked for, what stands for it in the control, and the public half that may be met."""

    forms: tuple[Form, ...]
    decoys: tuple[Form, ...]
    marks: Mapping[str, bytes]

    @classmethod
    def of(cls, *, key: bytes | None, token: bytes | None) -> Sought:
        """Make it from a private key's file and a token.

        Raises:
            ConfigError: not a key, encrypted, or a token that stands anywhere by chance.
            UsageError: neither is given.
        """
        if key is None and token is None:
            raise UsageError("nothing to look for", hint="--find-key FILE, --token-file FILE")
        wanted: list[Form] = []
        decoys: list[Form] = []
        marks: dict[str, bytes] = {}
        if key is not None:
            loaded = load_private_key(key)
            wanted += key_forms(loaded)
            decoys += key_forms(decoy_of(loaded))
            marks[PUBLIC] = public_mark(loaded)
        if token is not None:
            wanted += forms(token)
            decoys += forms(secrets.token_bytes(len(token)))
        return cls(tuple(wanted), tuple(decoys), marks)


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of one process. `trouble` says why it is unknown; None where all of it was read."""

    pid: int
    name: str
    report: Report | None
    trouble: str | None

    @property
    def copies(self) -> int:
        """Copies of all kinds in all memory."""
        return sum(copies for copies, _ in self.report.copies().values()) if self.report else 0

    @property
    def whole(self) -> int:
        """Copies that hold all of a number or file."""
        return sum(whole for _, whole in self.report.copies().values()) if self.report else 0

    def as_json(self) -> dict[str, Any]:
        """For programs; no byte of a secret."""
        facts: dict[str, Any] = {"pid": self.pid, "name": self.name, "trouble": self.trouble}
        if self.report is not None:
            found = self.report.found()
            facts |= {
                "copies": self.copies,
                "whole": self.whole,
                "memory": {
                    kind: {"copies": copies, "whole": whole, "forms": dict(found[kind])}
                    for kind, (copies, whole) in self.report.copies().items()
                },
                "unreadable": dict(self.report.unreadable),
                "bytes_read": self.report.bytes_read,
                "control": _is_proved(self.report),
                "public_key": PUBLIC in self.report.marks,
            }
        return facts


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of all of it."""

    looked: tuple[Looked, ...]
    planted: int
    missed: tuple[str, ...]
    """What the control planted and the scanner did not find."""
    has_key: bool

    @property
    def exit_code(self) -> int:
        """20 where a copy was found; 22 where something could not be looked at; 0 where neither."""
        return verdict(
            copies=sum(one.copies for one in self.looked),
            troubles=[*self.missed, *(one.trouble for one in self.looked if one.trouble)],
            looked=len(self.looked),
        )

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "copies": sum(one.copies for one in self.looked),
            "processes": [one.as_json() for one in self.looked],
            "control": {"planted": self.planted, "missed": list(self.missed)},
            "exit_code": self.exit_code,
        }


def verdict(*, copies: int, troubles: Sequence[str], looked: int) -> int:
    """The exit code: a find counts whatever else went wrong, and what was not read is never clean."""
    if copies:
        return FOUND
    return COULD_NOT_LOOK if troubles or not looked else CLEAN


def find(sought: Sought, pids: Sequence[int], *, with_descendants: bool) -> Answer:
    """Look through processes.

    Raises:
        UsageError: this process itself is among the ones that were named.
        NotReadableError: not even an own child can be read.
    """
    if os.getpid() in pids:
        raise UsageError("this process holds the key while it looks for it", hint="name another process")
    missed = plant.missed(sought.decoys)
    everyone = processes.descendants(pids, processes.parents()) if with_descendants else list(pids)
    index = Index(sought.forms)
    looked = [
        one
        for pid in everyone
        if pid != os.getpid() and (one := _look(pid, index, sought, is_named=pid in pids)) is not None
    ]
    return Answer(tuple(looked), len(sought.decoys), tuple(missed), PUBLIC in sought.marks)


def _look(pid: int, index: Index, sought: Sought, *, is_named: bool) -> Looked | None:
    """Look through one process; None for a descendant that ended meanwhile."""
    name = processes.name_of(pid)
    try:
        report = scan(pid, index, marks={**sought.marks, **own_marks(pid)})
    except NotReadableError as error:
        return None if not is_named and processes.is_over(pid) else Looked(pid, name, None, str(error))
    return Looked(pid, name, report, trouble_of(report))


def trouble_of(report: Report) -> str | None:
    """Say what of a process is unknown."""
    if not _is_proved(report):
        return "the control failed: what must stand in this process was not found"
    if report.unreadable:
        parts = (f"{size} bytes of {kind}" for kind, size in sorted(report.unreadable.items()))
        return f"{', '.join(parts)} could not be read"
    return None


def own_marks(pid: int) -> dict[str, bytes]:
    """What must stand in a process's memory: the head of its program's file, and its command line."""
    marks = {}
    try:
        with Path(f"/proc/{pid}/exe").open("rb") as file:
            marks[PROGRAM] = program_head(file.read(MAX_MARK))
        with Path(f"/proc/{pid}/cmdline").open("rb") as file:
            marks[COMMAND_LINE] = file.read(MAX_MARK).rstrip(b"\0")
    except OSError:
        return {}  # whoever ended is told by the scan
    return {name: mark for name, mark in marks.items() if len(mark) >= MIN_MARK}


def program_head(data: bytes) -> bytes:
    """Give an ELF file's headers, which the loader maps as they are; nothing of another file.

    Source: elf(5): e_phoff at 32, e_phentsize and e_phnum at 54 (64 bit).
    """
    if data[:5] != b"\x7fELF\x02" or len(data) < 64:
        return b""
    (offset,), (size, count) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<HH", data, 54)
    return data[: min(offset + size * count, len(data))]


def _is_proved(report: Report) -> bool:
    return bool(report.marks & {PROGRAM, COMMAND_LINE})


def lines(answer: Answer) -> Iterator[str]:
    """The same for people."""
    if answer.missed:
        yield f"control FAILED: {len(answer.missed)} planted forms were not found"
        yield from (f"  missed  {one}" for one in answer.missed)
    else:
        yield f"control: all of {answer.planted} planted forms were found"
    for one in answer.looked:
        if one.report is None:
            yield f"{one.name} ({one.pid}): unknown: {one.trouble}"
            continue
        yield f"{one.name} ({one.pid}): {_counted(one.copies, one.whole)}"
        found = one.report.found()
        for kind, (copies, whole) in one.report.copies().items():
            most = ", ".join(f"{form} ({count})" for form, count in found[kind].most_common(4))
            yield f"  {kind:<13} {_counted(copies, whole)}: {most}"
        if one.trouble:
            yield f"  unknown       {one.trouble}"
    if answer.has_key and not any(one.report and PUBLIC in one.report.marks for one in answer.looked):
        yield "note: not even its public key stands there: are these the processes that use it?"


def _counted(copies: int, whole: int) -> str:
    if not copies:
        return "none found"
    return f"{copies} {'copy' if copies == 1 else 'copies'}, {whole} whole"
