"""Audit entries: canonical, of a known kind, and about the request that they say."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import rfc8785
from support.gate_world import NOW, World, digest

from unlatch.gate.entry import (
    EntryError,
    change_entry,
    check_request_entry,
    decision_entry,
    enrol_entry,
    read_entry,
)

WORLD = World()
CASE = WORLD.request()
ENTRIES = {
    "request": CASE.entry,
    "enrol": enrol_entry(enrolment=b"{}", signature=None),
    "decision": decision_entry(statement=b"{}", signature="s", operator="mara", request="A", time=NOW),
    "wrong-code": decision_entry(
        statement=b"{}", signature="s", operator="mara", request="A", time=NOW, counts=False
    ),
    "change": change_entry(request="A", before="pending", after="denied", time=NOW),
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_entry_is_read_with_its_kind(kind: str) -> None:
    assert read_entry(ENTRIES[kind])["kind"] == kind


@pytest.mark.parametrize(
    "changes", [{"unlatch": 2}, {"unlatch": True}, {"kind": "other"}, {"kind": []}, {"kind": None}]
)
def test_entry_of_another_version_or_kind_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EntryError):
        read_entry(rfc8785.dumps(json.loads(CASE.entry) | changes))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", CASE.entry + b"\n", json.dumps(json.loads(CASE.entry)).encode()]
)
def test_bytes_that_are_no_canonical_entry_are_refused(data: bytes) -> None:
    with pytest.raises(EntryError):
        read_entry(data)


def test_entry_records_its_own_request() -> None:
    check_request_entry(CASE.entry, receipt=CASE.receipt, token=CASE.token)


@pytest.mark.parametrize("member", ["id", "workload", "kid", "point", "nonce", "policy_revision", "client"])
def test_entry_of_another_request_is_refused(member: str) -> None:
    changes: dict[str, Any] = {member: digest("other")}
    other = dataclasses.replace(CASE.receipt, **changes)
    with pytest.raises(EntryError, match="does not record"):
        check_request_entry(CASE.entry, receipt=other, token=CASE.token)


def test_entry_of_another_receipt_or_expiry_is_refused() -> None:
    with pytest.raises(EntryError):
        check_request_entry(CASE.entry, receipt=CASE.receipt, token=b"another")
    with pytest.raises(EntryError):
        check_request_entry(
            CASE.entry, receipt=dataclasses.replace(CASE.receipt, expires=NOW), token=CASE.token
        )


def test_entry_of_another_kind_is_no_request() -> None:
    with pytest.raises(EntryError, match="does not record"):
        check_request_entry(ENTRIES["change"], receipt=CASE.receipt, token=CASE.token)


def test_entry_holds_no_code() -> None:
    code = CASE.receipt.code
    assert code is not None
    assert code.encode() not in CASE.entry
