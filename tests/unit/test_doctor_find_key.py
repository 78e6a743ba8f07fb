"""What --find-key is told, which processes belong together, and what its answer means."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from support.pki import new_key, pem

from unlatch.__main__ import run
from unlatch.errors import ConfigError, UsageError
from unlatch.memguard.doctor import find_key, processes
from unlatch.memguard.doctor.find_key import PROGRAM, PUBLIC, Answer, Looked, Sought, lines, verdict
from unlatch.memguard.process_memory import NotReadableError
from unlatch.memguard.scan import Index, Report
from unlatch.memguard.secret_forms import forms

TOKEN = bytes(range(50, 90))
PROVED = frozenset({PROGRAM})


def report(
    *, found: bytes = b"", unreadable: dict[str, int] | None = None, marks: frozenset[str] = PROVED
) -> Report:
    runs = tuple(("heap", run) for run in Index(forms(TOKEN)).runs(memoryview(found), 0))
    return Report(runs, 1 << 20, unreadable or {}, marks)


def looked(one: Report) -> Looked:
    return Looked(7, "nginx", one, find_key.trouble_of(one))


def answer(*every: Looked, missed: tuple[str, ...] = (), has_key: bool = False) -> Answer:
    return Answer(every, 10, missed, has_key)


@pytest.mark.parametrize(
    ("copies", "troubles", "count", "code"),
    [
        (0, [], 1, 0),
        (0, [], 0, 22),
        (0, ["unknown"], 3, 22),
        (1, [], 1, 20),
        (1, ["unknown"], 2, 20),
    ],
)
def test_nothing_is_clean_unless_all_of_it_was_read(
    copies: int, troubles: list[str], count: int, code: int
) -> None:
    assert verdict(copies=copies, troubles=troubles, looked=count) == code


def test_clean_process_is_clean() -> None:
    clean = answer(looked(report()))

    assert clean.exit_code == 0
    assert list(lines(clean)) == ["control: all of 10 planted forms were found", "nginx (7): none found"]


def test_copies_are_told_by_kind_of_memory() -> None:
    found = answer(looked(report(found=TOKEN + b"  " + TOKEN[:20])))

    assert found.exit_code == 20
    assert list(lines(found))[1:] == [
        "nginx (7): 2 copies, 1 whole",
        "  heap          2 copies, 1 whole: token: as it is (2)",
    ]
    assert found.as_json()["processes"][0]["memory"] == {
        "heap": {"copies": 2, "whole": 1, "forms": {"token: as it is": 2}}
    }


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (report(unreadable={"secret memory": 4096}), "4096 bytes of secret memory could not be read"),
        (report(marks=frozenset()), "the control failed"),
        (report(marks=frozenset({PUBLIC})), "the control failed"),
    ],
)
def test_what_is_unknown_is_told_and_is_not_clean(one: Report, words: str) -> None:
    unknown = answer(looked(one))

    assert unknown.exit_code == 22
    assert any(words in line for line in lines(unknown))


def test_scanner_that_misses_a_plant_is_not_believed() -> None:
    blind = answer(looked(report()), missed=("p: DER, shared",))

    assert blind.exit_code == 22
    assert list(lines(blind))[:2] == [
        "control FAILED: 1 planted forms were not found",
        "  missed  p: DER, shared",
    ]


def test_wrong_process_is_hinted_at_by_the_missing_public_key() -> None:
    wrong, right = (
        answer(looked(report()), has_key=True),
        answer(looked(report(marks=PROVED | {PUBLIC})), has_key=True),
    )

    assert "public key" in list(lines(wrong))[-1]
    assert "public key" not in list(lines(right))[-1]


def test_key_and_token_are_sought_together() -> None:
    sought = Sought.of(key=pem(new_key("p256")), token=TOKEN)

    assert {form.part for form in sought.forms} == {"d", "key", "token"}
    assert {(form.part, form.kind) for form in sought.decoys} == {
        (form.part, form.kind) for form in sought.forms
    }
    assert not {form.data for form in sought.decoys} & {form.data for form in sought.forms}
    assert set(sought.marks) == {PUBLIC}


def test_nothing_to_look_for_is_refused() -> None:
    with pytest.raises(UsageError):
        Sought.of(key=None, token=None)
    with pytest.raises(ConfigError):
        Sought.of(key=b"no key", token=None)
    with pytest.raises(ConfigError):
        Sought.of(key=None, token=b"short")


def test_process_that_looks_is_not_looked_at() -> None:
    with pytest.raises(UsageError, match="this process"):
        find_key.find(Sought.of(key=None, token=TOKEN), [os.getpid()], with_descendants=False)


def test_descendants_come_once_after_their_parents() -> None:
    family = {2: 1, 3: 1, 4: 2, 5: 4, 9: 8}

    assert processes.descendants([2, 4], family) == [2, 4, 5]
    assert processes.descendants([1], family) == [1, 2, 3, 4, 5]
    assert processes.descendants([7], family) == [7]


@pytest.mark.parametrize("layout", ["", "systemd"])
def test_processes_of_a_unit_are_those_of_its_groups(tmp_path: Path, layout: str) -> None:
    group = tmp_path / layout / "system.slice" / "nginx.service"
    (group / "inner").mkdir(parents=True)
    (group / "cgroup.procs").write_text("10\n11\n")
    (group / "inner" / "cgroup.procs").write_text("12\n")

    assert processes.of_group("/system.slice/nginx.service", tmp_path) == [10, 11, 12]
    assert processes.of_group("/system.slice/other.service", tmp_path) == []


def test_unit_is_asked_for_at_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "systemctl"
    told.write_text('#!/bin/sh\n[ "$5" = nginx ] && echo /system.slice/nginx.service || echo\n')
    told.chmod(0o755)
    group = tmp_path / "system.slice" / "nginx.service"
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text("10\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert processes.of_unit("nginx", root=tmp_path) == [10]
    for name in ("other", "--help"):
        with pytest.raises(NotReadableError, match="has no process"):
            processes.of_unit(name, root=tmp_path)


def test_host_without_systemd_cannot_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(NotReadableError, match="systemd"):
        processes.of_unit("nginx")


def test_head_of_a_program_is_its_headers() -> None:
    head = b"\x7fELF\x02".ljust(64, b"\1")
    head = head[:32] + struct.pack("<Q", 64) + head[40:54] + struct.pack("<HH", 56, 2) + head[58:]

    assert find_key.program_head(head + b"x" * 500) == head + b"x" * 112
    assert find_key.program_head(b"#!/bin/sh") == b""
    assert find_key.program_head(head[:40]) == b""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--pid", "1"), 2),
        (("--tree",), 2),
        (("--find-key", "key"), 2),
        (("--find-key", "key", "--pid", "0"), 2),
        (("--find-key", "key", "--pid", "1", "file.jwe"), 2),
        (("--find-key", "key", "--pid", "1", "--offline"), 2),
        (("--find-key", "key", "--pid", "1"), 21),
        (("--token-file", "short", "--pid", "1"), 21),
    ],
)
def test_command_line_that_makes_no_sense_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("short")

    assert run(["doctor", *arguments]) == code
