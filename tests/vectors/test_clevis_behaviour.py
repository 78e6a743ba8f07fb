"""Replays what the real clevis 19 did; each difference is named with its reason (docs/clevis.md)."""

from pathlib import Path
from typing import Any

import pytest
from support.clevis_in_process import clevis
from support.vectors import load, named

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
