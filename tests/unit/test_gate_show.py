"""Requests on a terminal: what the gate or an asker says cannot move the cursor, and stands under what it is."""

from __future__ import annotations

from typing import Any

import pytest
from support.gate_world import NOW, World, digest

from unlatch.bootstrap.approval.claims import Claims
from unlatch.errors import UntrustedGateError
from unlatch.gate.desk import Standing, VerifiedRequest
from unlatch.gate.show import card, quoted, summary_line

FACTS: dict[str, Any] = {
    "id": "7QK2ABCD", "workload": "pay", "client": "native", "state": "pending", "approvals": ["mara"], "needed": 2,
    "expires": NOW + 61, "source": "10.4.2.17", "identity": "none",
}  # fmt: skip
STANDING = Standing.parse(FACTS)
CLAIMS = Claims(workload="pay", host="h1\x1b[2J", reason="line\nbreak", extra={"ticket\u202e": "CHG-1"})


def shown(client: str = "native", **facts: Any) -> str:
    case = World().request(client=client, claims=CLAIMS, **facts)
    request = VerifiedRequest(
        receipt=case.receipt, claims=CLAIMS if client == "native" else None, checkpoint="", source="10.4.2.17", standing=STANDING
    )  # fmt: skip
    return card(request, now=NOW + 1)


def test_list_names_request_time_and_source() -> None:
    assert summary_line(STANDING, now=NOW) == "7QK2ABCD  pay  1 of 2 approved  1:01 left  from 10.4.2.17"
    assert "0:00 left" in summary_line(STANDING, now=NOW + 999)
    named = Standing.parse(FACTS | {"identity": "TPM key web1"})
    assert summary_line(named, now=NOW).endswith("left  from TPM key web1, 10.4.2.17")


@pytest.mark.parametrize(
    ("identity", "place", "words"),
    [
        (f"tpm web1 {digest('k')}", "verified", "identity       TPM key web1"),
        (f"file web1 {digest('k')}", "verified", "identity       file key web1 (copyable)"),
        (f"new {digest('k')}", "derived", f"identity       new: nobody enrolled the key {digest('k')}"),
        (None, "derived", "identity       none: no key says which host this is"),
    ],
)
def test_identity_stands_under_what_it_is(identity: str | None, place: str, words: str) -> None:
    lines = shown(identity=identity).splitlines()
    heads = [line for line in lines[: lines.index(f"  {words}")] if not line.startswith(" ")]

    assert heads[-1] == place


def test_gate_that_knows_no_identities_is_read_too() -> None:
    older = {name: value for name, value in FACTS.items() if name != "identity"}

    assert Standing.parse(older).identity == "none"


def test_card_keeps_verified_said_and_claimed_apart() -> None:
    verified, _, rest = shown().partition("said by the gate")
    said, _, claimed = rest.partition("claimed by the asker")

    assert "workload       pay" in verified
    assert "10.4.2.17" in said
    assert "h1" not in verified + said
    assert "“h1\\u001b[2J”" in claimed


def test_every_line_of_a_card_is_printable() -> None:
    assert all(line.isprintable() for line in shown().splitlines())
    assert "line\\u000abreak" in shown()


def test_card_holds_no_code() -> None:
    case = World().request()
    assert case.receipt.code is not None
    assert case.receipt.code not in shown()


def test_stock_card_says_that_no_code_was_possible() -> None:
    assert "no code was possible" in shown("stock")


def test_long_claims_are_cut() -> None:
    assert quoted("x" * 300) == f"“{'x' * 200}…”"


def test_words_of_the_gate_are_made_printable() -> None:
    standing = Standing.parse(FACTS | {"source": "\x1b[31m1", "approvals": ["ma\nra"]})

    assert standing.source == "?[31m1"
    assert standing.approvals == ("ma?ra",)


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("value", [None, 1.5, {}, True])
def test_standing_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UntrustedGateError):
        Standing.parse(FACTS | {name: value})
