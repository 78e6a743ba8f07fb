"""Runs in a piece of memory, and lines of a process's map."""

from __future__ import annotations

import pytest

from unlatch.memguard.process_memory import Mapping
from unlatch.memguard.scan import Index, Report, forms
from unlatch.memguard.secret_forms import Form

SECRET = bytes(range(40, 80))
INDEX = Index(forms(SECRET))


def test_shortest_piece_is_found_at_every_place_and_alignment() -> None:
    for offset in range(len(SECRET) - 16 + 1):
        for before in range(9):
            data = b"\xff" * before + SECRET[offset : offset + 16] + b"\xff" * (before % 3)
            runs = INDEX.runs(memoryview(data), 4096)

            assert [(run.start, run.size, run.offset) for run in runs] == [(4096 + before, 16, offset)]


def test_one_byte_less_is_not_found() -> None:
    for offset in range(len(SECRET) - 15 + 1):
        data = b"\xff" * 8 + SECRET[offset : offset + 15] + b"\xff" * 8

        assert INDEX.runs(memoryview(data), 0) == []


def test_each_copy_counts_once_and_whole_ones_are_told() -> None:
    data = SECRET + b"---" + SECRET[:20] + b"---" + SECRET
    runs = INDEX.runs(memoryview(data), 0)

    assert [(run.start, run.is_whole) for run in runs] == [(0, True), (43, False), (66, True)]


def test_what_is_public_in_a_form_neither_counts_nor_ends_a_run() -> None:
    form = Form(
        "key", "DER", b"public head " + SECRET[:20] + b" public middle " + SECRET[20:], ((12, 32), (47, 67))
    )
    index = Index([form])
    (run,) = index.runs(memoryview(form.data), 0)

    assert (run.size, run.is_whole) == (67, True)
    assert index.runs(memoryview(b"public head " + b"\xff" * 20 + b" public middle "), 0) == []


def test_uniform_memory_is_no_find() -> None:
    index = Index([Form("d", "number, big-endian", b"\0" * 20 + SECRET + b"\0" * 20, ((0, 80),))])

    assert index.runs(memoryview(bytes(4096)), 0) == []


def test_copies_are_numbers_of_one_form_together() -> None:
    def run(part: str, kind: str, size: int) -> tuple[str, object]:
        form = Form(part, kind, SECRET, ((0, len(SECRET)),))
        (one,) = Index([form]).runs(memoryview(SECRET[:size]), 0)
        return "heap", one

    runs = [
        run("p", "le", 40),
        run("p", "le", 20),
        run("q", "le", 40),
        run("d", "le", 40),
        run("p", "be", 30),
    ]
    report = Report(tuple(runs), 0, {}, frozenset())  # type: ignore[arg-type]

    assert report.copies() == {"heap": (3, 1)}
    assert report.found() == {"heap": {"p: le": 2, "q: le": 1, "d: le": 1, "p: be": 1}}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("55d0-55d8 rw-p 00000000 00:00 0          [heap]", "heap"),
        ("7ffc-7ffd rw-p 00000000 00:00 0          [stack]", "stack"),
        ("7f00-7f10 rw-p 00000000 00:00 0 ", "anonymous"),
        ("7f00-7f10 rw-p 00000000 00:00 0          [anon:arena]", "anonymous"),
        ("7f00-7f10 r--p 00001000 fe:00 1234       /usr/lib/a b.so", "file mapping"),
        ("7f00-7f10 rw-s 00000000 00:01 1234       /dev/zero (deleted)", "shared"),
        ("7f00-7f10 rw-s 00000000 00:01 1234       /memfd:x (deleted)", "shared"),
        ("7f00-7f10 rw-s 00000000 00:0f 77         /secretmem (deleted)", "secret memory"),
    ],
)
def test_kind_of_a_mapping(line: str, kind: str) -> None:
    mapping = Mapping.parse(line)

    assert mapping is not None
    assert mapping.kind == kind


@pytest.mark.parametrize("name", ["[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"])
def test_pages_of_the_kernel_are_left_out(name: str) -> None:
    assert Mapping.parse(f"7f00-7f10 r--p 00000000 00:00 0      {name}") is None


@pytest.mark.parametrize("line", ["", "heap", "7f00-7f10 rw-p", "xyz-7f10 rw-p 00000000 00:00 0"])
def test_line_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="maps"):
        Mapping.parse(line)
