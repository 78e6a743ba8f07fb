"""Replays what the real clevis 19 did; each difference is named with its reason (docs/clevis.md)."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.vectors import load, named

from unlatch.__main__ import run

CLI = load("cli_behaviour")["cases"]
INPUTS = [case for case in load("malformed_client_input")["cases"] if not case["group"].startswith("tang")]

STRICTER = {
    "good + trailing garbage field": "one spelling",
    "encrypted_key non-empty with alg dir": "sealed files have none",
    "header: crit with unknown ext": "crit must be understood (RFC 7516 section 4.1.13)",
    "header: zip DEF, correctly deflated": "no inflating",
}
BETTER = {
    "good + trailing newline": "files end in newlines",
    "good + trailing CRLF": "files end in newlines",
    "2-of-3, share 0 decrypts to 63 bytes (others fine)": "the other shares suffice",
    "2-of-3, share 2 decrypts to 63 bytes (others fine)": "the other shares suffice",
    "2-of-3, share 0 decrypts to 65 bytes": "the other shares suffice",
}
HANGS = {"jwe empty list", "p empty"}


class Result:
    code: int
    out: bytes
    err: str


@contextmanager
def standard_input(folder: Path, data: bytes) -> Iterator[None]:
    file = folder / "stdin"
    file.write_bytes(data)
    saved = os.dup(0)
    fd = os.open(file, os.O_RDONLY)
    os.dup2(fd, 0)
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(fd)


def clevis(
    arguments: list[str],
    data: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    patch: pytest.MonkeyPatch,
) -> Result:
    """Run `unlatch clevis …` in this process, with descriptors as a shell would give them."""
    result = Result()
    with standard_input(folder, data.encode("utf-8", "surrogateescape")):
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.FileIO(os.dup(0))))
        result.code = run(arguments)
        sys.stdin.close()
    captured = capfd.readouterr()
    result.out, result.err = captured.out.encode("utf-8", "surrogateescape"), captured.err
    return result


@pytest.mark.parametrize("case", [pytest.param(case, id=" ".join(case["argv"])) for case in CLI])
def test_invocation_answers_as_clevis_does(
    case: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = clevis(case["argv"], case["stdin"], tmp_path, capfd, monkeypatch)

    assert (found.code, found.out.decode(), found.err) == (case["exit_code"], case["stdout"], case["stderr"])


@pytest.mark.parametrize("case", named(INPUTS, "group", "case"))
def test_input_ends_as_in_clevis_or_as_documented(
    case: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = case["exit_code"]
    if case["case"] in STRICTER or case["case"] in HANGS:
        expected = 1
    elif case["case"] in BETTER:
        expected = 0

    found = clevis(["clevis", "decrypt"], case["input"], tmp_path, capfd, monkeypatch)

    assert found.code == expected
    # A failure prints nothing: clevis prints unauthenticated plaintext here.
    speaks = expected == 0 and not case["case"].startswith("empty plaintext")
    assert found.out.startswith(b"PLAINTEXT") if speaks else found.out == b""


@pytest.mark.parametrize(
    "case", named([c for c in INPUTS if c["stderr"].startswith(("JWE is", "Unable to locate"))], "case")
)
def test_header_complaint_is_worded_as_in_clevis(
    case: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = clevis(["clevis", "decrypt"], case["input"], tmp_path, capfd, monkeypatch)

    assert found.err.splitlines()[0] == case["stderr"].strip()


def test_every_named_difference_is_still_a_recorded_case() -> None:
    recorded = {case["case"] for case in INPUTS}

    assert STRICTER.keys() | BETTER.keys() | HANGS <= recorded
