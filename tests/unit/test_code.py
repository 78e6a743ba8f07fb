"""Codes: made from nonce, point and workload, read as people type."""

from __future__ import annotations

import pytest

from unlatch.bootstrap.approval.code import ALPHABET, code_digest, derive_code, read_code

CODE = derive_code(nonce=bytes(32), point="p", workload="pay")


def test_code_is_two_groups_of_four_letters() -> None:
    assert len(CODE) == 9
    assert CODE[4] == "-"
    assert set(CODE) <= {*ALPHABET, "-"}


def test_code_depends_on_each_part_and_on_its_borders() -> None:
    others = {
        derive_code(nonce=bytes(31) + b"\1", point="p", workload="pay"), derive_code(nonce=bytes(32), point="q", workload="pay"),
        derive_code(nonce=bytes(32), point="p", workload="pax"), derive_code(nonce=bytes(32), point="pp", workload="ay"),
        derive_code(nonce=bytes(32), point="", workload="ppay"),
    }  # fmt: skip

    assert len(others | {CODE}) == 6


def test_code_is_the_documented_one() -> None:
    """Computed by hand from docs/protocol.md: SHA-256 over tag and length-prefixed fields, base 20, least digit first."""
    import hashlib

    data = b"unlatch-code-v1" + b"".join(
        len(part).to_bytes(4, "big") + part for part in (bytes(32), b"p", b"pay")
    )
    number, letters = int.from_bytes(hashlib.sha256(data).digest(), "big"), ""
    for _ in range(8):
        number, rest = divmod(number, 20)
        letters += ALPHABET[rest]

    assert f"{letters[:4]}-{letters[4:]}" == CODE


@pytest.mark.parametrize("typed", ["KTRW-HQMZ", "ktrw-hqmz", "KTRWHQMZ", " ktrw hqmz\n", "kt-rw-hq-mz"])
def test_code_is_read_in_any_case_with_or_without_the_dash(typed: str) -> None:
    assert read_code(typed) == "KTRW-HQMZ"


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "KTRW",
        "KTRW-HQM",
        "KTRW-HQMZZ",
        "KTRW-HQMA",
        "KTRW-HQM1",
        "KTRW_HQMZ",
        "\uff2bTRW-HQMZ",
        "\u017fTRW-HQMZ",
    ],
)
def test_what_is_no_code_is_refused(typed: str) -> None:
    with pytest.raises(ValueError, match="two groups"):
        read_code(typed)


def test_digest_of_a_code_holds_for_one_request() -> None:
    assert code_digest(CODE, request="A") != code_digest(CODE, request="B")
    assert CODE not in code_digest(CODE, request="A")
