"""Statements: canonical, whole, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from support.gate_world import World

from unlatch.gate.statement import MAX_BYTES, Statement, StatementError, session_message

WORLD = World()
CASE = WORLD.request()
STATEMENT = WORLD.statement(CASE)
MEMBERS: dict[str, Any] = json.loads(STATEMENT.encode())


def encoded(**changes: Any) -> bytes:
    members = {name: value for name, value in (MEMBERS | changes).items() if value is not ...}
    return rfc8785.dumps(members)


def test_statement_is_read_as_it_was_written() -> None:
    assert Statement.parse(STATEMENT.encode()) == STATEMENT


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(MEMBERS).encode(),
        json.dumps(MEMBERS, separators=(",", ":")).encode()[:-1] + b',"unlatch":1}',
        b" " + STATEMENT.encode(), STATEMENT.encode() + b"\n", b"", b"[]", b"null", b"\xff", b'{"unlatch":1}',
    ],
)  # fmt: skip
def test_bytes_that_are_no_canonical_statement_are_refused(data: bytes) -> None:
    with pytest.raises(StatementError):
        Statement.parse(data)


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_statement_without_a_member_is_refused(name: str) -> None:
    with pytest.raises(StatementError):
        Statement.parse(encoded(**{name: ...}))


@pytest.mark.parametrize("name", sorted(MEMBERS))
@pytest.mark.parametrize("value", [[], {}, True, 1.5])
def test_statement_with_a_member_of_another_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(StatementError):
        Statement.parse(encoded(**{name: value}))


@pytest.mark.parametrize(
    "changes", [{"more": "x"}, {"unlatch": 2}, {"decision": "allow"}, {"not_after": 1e300}]
)
def test_statement_that_says_more_or_other_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(StatementError):
        Statement.parse(encoded(**changes))


def test_huge_statement_is_refused() -> None:
    with pytest.raises(StatementError, match="too long"):
        Statement.parse(encoded(checkpoint="x" * MAX_BYTES))


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    deep = b'{"unlatch":' + b"[" * 900 + b"]" * 900 + b"}"
    with pytest.raises(StatementError, match="nested"):
        Statement.parse(deep)


def test_denial_carries_no_code() -> None:
    assert WORLD.statement(CASE, decision="deny").code_digest is None


def test_statement_holds_no_code() -> None:
    code = CASE.receipt.code
    assert code is not None
    for text in (code, code.replace("-", "")):
        assert text.encode() not in STATEMENT.encode()


def test_session_message_is_no_statement() -> None:
    with pytest.raises(StatementError):
        Statement.parse(session_message(gate="g", origin="o", nonce="n"))
