"""The statement: what an operator signs to approve or deny one request.

Canonical JSON (RFC 8785) under SSHSIG namespace ``unlatch-approve-v1``. The operator's own program builds it from
what it verified; keyholder accepts it only if every member equals what keyholder itself put into the receipt.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import rfc8785

from unlatch.bootstrap.approval import strict_json
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.code import code_digest
from unlatch.bootstrap.approval.receipt import Receipt
from unlatch.bootstrap.identity.proof import Identity
from unlatch.errors import RefusedError

NAMESPACE = "unlatch-approve-v1"
SESSION_NAMESPACE = "unlatch-session-v1"
MAX_BYTES = 16384

Decision = Literal["approve", "deny"]

_TEXTS = (
    "decision", "request", "point", "kid", "workload", "gate", "origin", "policy_revision", "nonce", "checkpoint",
)  # fmt: skip
_OPTIONAL = ("config_digest", "bundle_digest", "code_digest")


class StatementError(RefusedError):
    """A statement is malformed, or does not say what it must say for this request."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One decision on one request. `checkpoint` is the whole signed note; `not_after` is in Unix seconds."""

    decision: Decision
    request: str
    point: str
    kid: str
    workload: str
    gate: str
    origin: str
    policy_revision: str
    nonce: str
    not_after: int
    checkpoint: str
    config_digest: str | None
    bundle_digest: str | None
    code_digest: str | None
    identity: str | None = None

    @classmethod
    def about(
        cls, receipt: Receipt, *, decision: Decision, claims: Claims | None, code: str | None, checkpoint: str
    ) -> Self:
        """The statement for a request that was verified.

        Args:
            code: what the operator typed, as ``XXXX-XXXX``; None for a denial or where no code was possible.
        """
        return cls(
            decision=decision,
            request=receipt.id,
            point=receipt.point,
            kid=receipt.kid,
            workload=receipt.workload,
            gate=receipt.gate,
            origin=receipt.origin,
            policy_revision=receipt.policy_revision,
            nonce=receipt.nonce,
            not_after=receipt.expires,
            checkpoint=checkpoint,
            config_digest=claims.config_digest if claims else None,
            bundle_digest=claims.bundle_digest if claims else None,
            code_digest=code_digest(code, request=receipt.id) if code else None,
            identity=receipt.identity,
        )

    def encode(self) -> bytes:
        """The bytes to sign. Where the asker proved no identity, the member is missing."""
        members = {"unlatch": 1, **asdict(self)}
        if self.identity is None:
            del members["identity"]
        return rfc8785.dumps(members)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a statement.

        Raises:
            StatementError: not canonical, a member is missing, unknown or of another type.
        """
        try:
            if len(data) > MAX_BYTES:
                raise ValueError("too long")
            members = strict_json.read_object(data)
            if rfc8785.dumps(members) != data:
                raise ValueError("not canonical")
            _check_members(members)
            return cls(**members)
        except (ValueError, TypeError, rfc8785.CanonicalizationError) as error:
            raise StatementError(f"a statement that cannot be read: {error}") from error


def check_statement(statement: Statement, receipt: Receipt, *, claims: Claims | None) -> None:
    """Refuse a statement that is not exactly about this request, its code included.

    Raises:
        StatementError: says which member differs.
        WrongCodeError: only the typed code differs.
    """
    code = receipt.code if statement.decision == "approve" else None
    wanted = Statement.about(
        receipt, decision=statement.decision, claims=claims, code=code, checkpoint=statement.checkpoint
    )
    said = asdict(statement)
    differing = [name for name, value in asdict(wanted).items() if said[name] != value]
    if differing == ["code_digest"] and statement.decision == "approve":
        raise WrongCodeError("the typed code is not the code of this request")
    if differing:
        raise StatementError(f"the statement is about another request ({', '.join(differing)} differs)")


class WrongCodeError(StatementError):
    """The statement is about this request, but the typed code is another."""


def session_message(*, gate: str, origin: str, nonce: str) -> bytes:
    """What an operator signs once to read the list of requests for some hours. It decides nothing."""
    return rfc8785.dumps({"unlatch": 1, "kind": "session", "gate": gate, "origin": origin, "nonce": nonce})


def _check_members(members: dict[str, Any]) -> None:
    strict_json.check_version(members.pop("unlatch", None), 1)
    if members.get("decision") not in ("approve", "deny"):
        raise ValueError("neither approve nor deny")
    if not all(isinstance(members.get(name), str) for name in _TEXTS):
        raise ValueError("a text is missing")
    if type(members.get("not_after")) is not int:
        raise ValueError("a time is missing")
    if not all(name in members and isinstance(members[name], str | None) for name in _OPTIONAL):
        raise ValueError("a digest is missing")
    if "identity" in members:
        if not isinstance(members["identity"], str):
            raise ValueError("an identity that is none")
        Identity.parse(members["identity"])
