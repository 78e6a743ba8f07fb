"""Claims: bounded, canonical, and nothing that was not asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import MAX_HEADER_BYTES, Claims, header_value

DIGEST = base64url.digest(b"bundle")
WHOLE = Claims(
    workload="pay", host="h1", boot_id="b", reason="start", config_digest=DIGEST, config_summary="{}",
    bundle_digest=DIGEST, extra={"ticket": "CHG-1"},
)  # fmt: skip


def test_claims_are_read_as_they_were_written() -> None:
    assert Claims.parse(WHOLE.encode()) == WHOLE


def test_what_is_not_said_is_not_written() -> None:
    assert json.loads(Claims(workload="pay", host="h").encode()) == {"host": "h", "workload": "pay"}


@pytest.mark.parametrize(
    "changes",
    [
        {"workload": None}, {"host": None}, {"host": 1}, {"host": "x" * 254}, {"reason": "x" * 501}, {"reason": "ä" * 251},
        {"config_summary": "x" * 2049}, {"config_digest": "short"}, {"bundle_digest": DIGEST + "A"}, {"bundle_digest": None},
        {"extra": []}, {"extra": {"a": 1}}, {"extra": {"a": "x" * 501}}, {"more": "x"}, {"code": "x"},
    ],
)  # fmt: skip
def test_claims_outside_the_rules_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Claims.parse(json.dumps(json.loads(WHOLE.encode()) | changes).encode())


def test_too_long_claims_are_not_written() -> None:
    with pytest.raises(ValueError, match="too long"):
        Claims(workload="pay", host="x" * 254).encode()


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{", b"\xff", b'{"workload":"a","workload":"b","host":"h"}']
)
def test_bytes_that_are_no_claims_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Claims.parse(data)


def test_header_over_its_limit_is_refused() -> None:
    longest = Claims(workload="pay", host="h", extra={str(number): "x" * 400 for number in range(8)}).encode()
    with pytest.raises(ValueError, match=str(MAX_HEADER_BYTES)):
        header_value(longest)
    assert base64url.decode(header_value(WHOLE.encode())) == WHOLE.encode()


def test_another_gate_may_know_the_workload_by_another_name() -> None:
    assert WHOLE.for_workload("other").workload == "other"
    assert WHOLE.for_workload("other").bundle_digest == DIGEST
