"""Files that keep what was acknowledged."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from unlatch.errors import ConfigError
from unlatch.gate import durable
from unlatch.gate.durable import Journal
from unlatch.gate.keyholder import Spent, SpentError


def test_journal_keeps_its_lines(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal")
    first.append(b"one")
    first.append(b"two")
    first.close()
    second = Journal(tmp_path / "journal")

    assert second.lines == [b"one", b"two"]
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600
    second.close()


@pytest.mark.parametrize("torn", [b"t", b"tw", b"one\ntw"])
def test_torn_last_line_is_cut_off_and_the_next_one_stands_alone(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(torn if torn.startswith(b"one") else b"one\n" + torn)
    journal = Journal(path)
    journal.append(b"three")
    journal.close()

    assert path.read_bytes() == b"one\nthree\n"


def test_line_break_in_a_line_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with pytest.raises(ValueError, match="line break"):
        journal.append(b"one\ntwo")
    journal.close()


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Ten bytes for each file of this process, standard output included: so only around the call itself."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_line_that_does_not_fit_leaves_no_half(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.append(b"short")
    with full_disk(), pytest.raises(OSError, match="large"):
        journal.append(b"much too long")
    journal.close()

    assert (tmp_path / "journal").read_bytes() == b"short\n"
    assert journal.lines == [b"short"]


def test_replaced_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.replace(path, b"old")
    durable.replace(path, b"new")

    assert path.read_bytes() == b"new"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_folder_is_its_owners_and_made_once(tmp_path: Path) -> None:
    durable.make_folder(tmp_path / "folder")

    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConfigError, match="cannot make"):
        durable.make_folder(tmp_path / "folder")


def test_spent_point_stays_spent(tmp_path: Path) -> None:
    spent = Spent(tmp_path / "spent")
    spent.spend("point", "denied")
    for one in (spent, Spent(tmp_path / "spent")):
        with pytest.raises(SpentError, match="denied before"):
            one.check("point")
        with pytest.raises(SpentError):
            one.spend("point", "answered")
    assert (tmp_path / "spent").read_text() == "point denied\n"
