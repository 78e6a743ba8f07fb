"""The audit log's entries: canonical JSON (RFC 8785), one line each, the leaves of the tree.

Kinds: ``enrol`` (an enrolment and its signature), ``request`` (what was asked, with the receipt's digest),
``decision`` (a signed statement), ``wrong-code`` (a signed statement that did not count), ``change`` (every other change
of a request). No entry holds a code or a point, only digests and thumbprints.
"""

from __future__ import annotations

from typing import Any

import rfc8785

from unlatch.bootstrap.approval import base64url, strict_json
from unlatch.bootstrap.approval.receipt import Receipt
from unlatch.errors import RefusedError

MAX_BYTES = 32768
KINDS = frozenset({"enrol", "request", "decision", "wrong-code", "change"})


class EntryError(RefusedError):
    """An audit entry is malformed, or is not what it should be."""


def enrol_entry(*, enrolment: bytes, signature: str | None) -> bytes:
    """An enrolment as it was signed; the genesis has no signature."""
    return _write("enrol", enrolment=enrolment.decode(), signature=signature)


def request_entry(
    receipt: Receipt, token: bytes, *, source: str, claims: bytes | None, proof: str | None = None
) -> bytes:
    """A request as it was received. `source` is the peer's address; claims and proof are as the asker wrote them."""
    shown = {"identity": receipt.identity, "proof": proof} if receipt.identity is not None else {}
    return _write(
        "request",
        request=receipt.id,
        workload=receipt.workload,
        kid=receipt.kid,
        point=receipt.point,
        receipt=base64url.digest(token),
        nonce=receipt.nonce,
        policy_revision=receipt.policy_revision,
        client=receipt.client,
        time=receipt.issued,
        not_after=receipt.expires,
        source=source,
        claims=claims.decode() if claims is not None else None,
        **shown,
    )


def decision_entry(
    *, statement: bytes, signature: str, operator: str, request: str, time: int, counts: bool = True
) -> bytes:
    """A signed statement. With `counts` false: all is right but the typed code."""
    return _write(
        "decision" if counts else "wrong-code",
        request=request,
        operator=operator,
        statement=statement.decode(),
        signature=signature,
        time=time,
    )


def change_entry(*, request: str, before: str, after: str, time: int, why: str | None = None) -> bytes:
    """A change of a request's state."""
    return _write("change", request=request, before=before, after=after, time=time, why=why)


def read_entry(data: bytes) -> dict[str, Any]:
    """Read an entry of any kind.

    Raises:
        EntryError: not canonical JSON of a known kind and version.
    """
    try:
        if len(data) > MAX_BYTES:
            raise ValueError("too long")
        members = strict_json.read_object(data)
        if rfc8785.dumps(members) != data:
            raise ValueError("not canonical")
        strict_json.check_version(members.get("unlatch"), 1)
    except (ValueError, rfc8785.CanonicalizationError) as error:
        raise EntryError(f"an audit entry that cannot be read: {error}") from error
    if str(members.get("kind")) not in KINDS:
        raise EntryError("an audit entry of another kind")
    return members


def check_request_entry(data: bytes, *, receipt: Receipt, token: bytes) -> None:
    """Refuse an entry that does not record this receipt.

    Raises:
        EntryError: it is another request's.
    """
    members = read_entry(data)
    wanted = {
        "kind": "request", "request": receipt.id, "workload": receipt.workload, "kid": receipt.kid,
        "point": receipt.point, "receipt": base64url.digest(token), "nonce": receipt.nonce,
        "policy_revision": receipt.policy_revision, "client": receipt.client, "not_after": receipt.expires,
        "identity": receipt.identity,
    }  # fmt: skip
    if any(members.get(name) != value for name, value in wanted.items()):
        raise EntryError("the audit entry does not record this request")


def _write(kind: str, **members: Any) -> bytes:
    return rfc8785.dumps({"unlatch": 1, "kind": kind, **members})
