"""The operator's side: signs in, fetches, verifies all of it against the pinned context, builds the statement, signs it.

Rule 1: what the operator sees and signs was verified here: the receipt by the pinned signing key, the claims by the
receipt, the request's audit entry by the checkpoint, the checkpoint by the pinned log keys.
Rule 2: the last checkpoint is remembered; a log that does not extend it is a fork, and is refused.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.receipt import Receipt, verify_receipt
from unlatch.bootstrap.approval.words import printable
from unlatch.bootstrap.context import Context, state_folder
from unlatch.errors import ConfigError, UntrustedGateError
from unlatch.gate.checkpoint import Checkpoint, CheckpointError, LogKeys, VerifierKey, read_checkpoint
from unlatch.gate.entry import check_request_entry, read_entry
from unlatch.gate.http import GateHttp, GateRefusedError
from unlatch.gate.merkle import EMPTY_ROOT, ProofError, leaf_hash, verify_consistency, verify_inclusion
from unlatch.gate.signing import sign
from unlatch.gate.statement import NAMESPACE, SESSION_NAMESPACE, Decision, Statement, session_message


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a request stands, as the gate says. Texts are fit for a terminal; `expires` is in Unix seconds."""

    id: str
    workload: str
    client: str
    state: str
    approvals: tuple[str, ...]
    needed: int
    expires: int
    source: str
    identity: str = "none"

    @classmethod
    def parse(cls, facts: dict[str, Any]) -> Self:
        """Read a gate's words.

        Raises:
            UntrustedGateError: a member is missing or of another type.
        """
        approvals, numbers = facts.get("approvals"), [facts.get(name) for name in ("needed", "expires")]
        texts = [facts.get(name) for name in ("id", "workload", "client", "state", "source")]
        texts.append(facts.get("identity", "none"))
        if not isinstance(approvals, list) or not all(isinstance(one, str) for one in (*texts, *approvals)):
            raise UntrustedGateError("the gate's answer is damaged", hint="do not approve")
        if not all(type(number) is int for number in numbers):
            raise UntrustedGateError("the gate's answer is damaged", hint="do not approve")
        name, workload, client, state, source, identity = map(printable, texts)
        return cls(
            id=name, workload=workload, client=client, state=state, approvals=tuple(map(printable, approvals)),
            needed=facts["needed"], expires=facts["expires"], source=source, identity=identity,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class VerifiedRequest:
    """A request whose every part was checked, but for its `standing`.

    `source` is the address that asked, as the audit log recorded it.
    """

    receipt: Receipt
    claims: Claims | None
    checkpoint: str
    source: str
    standing: Standing


class Desk:
    """One operator at one gate.

    Args:
        key: the operator's SSH key, private or .pub.
        keep_session: whether to write the session to the state folder (0600) for the next command.
    """

    def __init__(self, context: Context, *, key: Path, keep_session: bool = True) -> None:
        if context.people is None or context.log is None or context.clock is None:
            raise ConfigError(
                f"{context.url} is a plain Tang server: it has no requests", hint="unlatch gate trust URL"
            )
        self._context, self._key = context, key
        self._log_keys = LogKeys(log=VerifierKey.parse(context.log), clock=VerifierKey.parse(context.clock))
        self._http = GateHttp(context.people)
        self._folder = state_folder()
        self._keep_session = keep_session

    def pending(self) -> list[Standing]:
        """The requests that wait, the next to expire first, as the gate lists them."""
        found = self._read("/o/requests").get("requests")
        return (
            [Standing.parse(one) for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        )

    def choose(self, name: str | None) -> str:
        """The id of a request: the one that was named, or the only one that waits.

        Raises:
            ConfigError: none waits, or several do.
        """
        if name is not None:
            chosen = name.strip().upper()
            if not chosen.isascii() or not chosen.isalnum():
                raise ConfigError(f"{printable(name)!r} is no request", hint="unlatch pending lists them")
            return chosen
        names = [one.id for one in self.pending()]
        if len(names) == 1:
            return names[0]
        if not names:
            raise ConfigError(f"nothing waits at {self._context.people}", hint="unlatch pending")
        raise ConfigError(
            f"{len(names)} requests wait: {', '.join(names)}", hint="name one; unlatch pending lists them"
        )

    def request(self, name: str) -> VerifiedRequest:
        """Fetch and verify one request.

        Raises:
            UntrustedGateError: a part of it is not what the pinned gate signed, or the log was forked.
        """
        seen = self._seen()
        try:
            facts = self._read(f"/o/requests/{name}?since={seen[0]}")
        except GateRefusedError as error:
            if error.kind == "shorter":
                raise _forked(str(error)) from error
            raise
        try:
            token, record = (base64url.decode(facts[field]) for field in ("receipt", "entry"))
            receipt = verify_receipt(token, keys=self._pinned())
            claims = _claims(facts, receipt)
            checkpoint = self._advance(seen, facts)
            check_request_entry(record, receipt=receipt, token=token)
            source = printable(read_entry(record)["source"])
            verify_inclusion(
                leaf=leaf_hash(record), index=facts["index"], size=checkpoint.size,
                proof=_steps(facts["inclusion"]), root=checkpoint.root,
            )  # fmt: skip
            checkpoint.check_age(time.time())
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UntrustedGateError("the gate's answer is damaged", hint="do not approve") from error
        except (ProofError, CheckpointError) as error:
            raise UntrustedGateError(
                f"the gate's answer does not hold: {error}", hint="do not approve"
            ) from error
        if receipt.id != name:
            raise UntrustedGateError("the gate gave another request", hint="do not approve")
        return VerifiedRequest(
            receipt=receipt, claims=claims, checkpoint=facts["checkpoint"], source=source,
            standing=Standing.parse(facts),
        )  # fmt: skip

    def decide(self, request: VerifiedRequest, decision: Decision, *, code: str | None) -> Standing:
        """Sign a statement on a verified request and hand it in.

        Args:
            code: as ``XXXX-XXXX``; None for a denial and where no code was possible.
        """
        statement = Statement.about(
            request.receipt,
            decision=decision,
            claims=request.claims,
            code=code,
            checkpoint=request.checkpoint,
        ).encode()
        signature = sign(statement, key=self._key, namespace=NAMESPACE)
        answer = self._http.post(
            f"/o/requests/{request.receipt.id}/decision",
            {"statement": base64url.encode(statement), "signature": signature},
        )
        return Standing.parse(answer)

    def audit(self) -> Iterator[bytes]:
        """The audit log's export, line by line."""
        self._sign_in()
        return self._http.lines("/o/audit")

    def links(self) -> list[tuple[bytes, str | None]]:
        """The gate's chain of enrolments."""
        try:
            found = self._read("/o/chain")["links"]
            return [(base64url.decode(link["enrolment"]), link["signature"]) for link in found]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UntrustedGateError("the gate's chain of enrolments is damaged") from error

    def new_key(self) -> str:
        """A new exchange key at the gate, for an enrolment to name."""
        self._sign_in()
        kid = self._http.post("/o/keys", {}).get("kid")
        if not base64url.is_digest(kid):
            raise UntrustedGateError("the gate's new key has no thumbprint")
        return str(kid)

    def hand_in(self, enrolment: bytes, signature: str) -> None:
        """Give a signed enrolment to the gate."""
        self._http.post("/o/enrolments", {"enrolment": base64url.encode(enrolment), "signature": signature})

    def _read(self, path: str) -> dict[str, Any]:
        self._sign_in()
        try:
            return self._http.get(path)
        except GateRefusedError as error:
            if error.kind != "session":
                raise
        self._sign_in(afresh=True)
        return self._http.get(path)

    def _sign_in(self, *, afresh: bool = False) -> None:
        if not afresh and self._http.token is not None:
            return
        self._http.token = None if afresh or not self._keep_session else self._saved_session()
        if self._http.token is not None:
            return
        self._http.check_secrecy()
        challenge = self._http.get("/o/challenge")
        gate, nonce = self._context.thumbprints[0], str(challenge.get("nonce"))
        message = session_message(gate=gate, origin=str(self._context.people), nonce=nonce)
        signature = sign(message, key=self._key, namespace=SESSION_NAMESPACE)
        opened = self._http.post("/o/session", {"nonce": nonce, "signature": signature})
        token, expires = opened.get("token"), opened.get("expires")
        if not isinstance(token, str) or type(expires) is not int:
            raise UntrustedGateError("the gate's session is none")
        self._http.token = token
        if self._keep_session:
            saved = {"token": token, "expires": expires, **self._session_owner()}
            _write_private(self._state_path("session"), json.dumps(saved))

    def _saved_session(self) -> str | None:
        """The token of a session that is still good, with this key at this gate."""
        try:
            saved = json.loads(self._state_path("session").read_text())
            if saved["expires"] > time.time() + 60 and self._session_owner().items() <= saved.items():
                return str(saved["token"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # a file that is none is as good as no session: sign in again
        return None

    def _session_owner(self) -> dict[str, str]:
        return {
            "key": str(self._key.absolute()),
            "gate": self._context.thumbprints[0],
            "people": str(self._context.people),
        }

    def _state_path(self, kind: str) -> Path:
        """A file of this gate's log: a name that was given to another gate later starts afresh."""
        return self._folder / f"{self._context.name}-{self._log_keys.log.id.hex()}.{kind}"

    def _pinned(self) -> list[dict[str, Any]]:
        from unlatch.bootstrap.jose import thumbprint

        return [dict(key) for key in self._context.keys if thumbprint(key) in self._context.thumbprints]

    def _seen(self) -> tuple[int, bytes]:
        path = self._state_path("checkpoint")
        if not path.exists():
            return 0, EMPTY_ROOT
        try:
            checkpoint = read_checkpoint(path.read_text(), keys=self._log_keys)
        except (CheckpointError, OSError, ValueError) as error:
            raise ConfigError(
                f"the last seen checkpoint {path} is damaged: {error}",
                hint="a rewritten log could hide behind that. Remove it only if you know why",
            ) from error
        return checkpoint.size, checkpoint.root

    def remember(self, note: str) -> None:
        """Keep a checkpoint whose log was verified to extend the last one."""
        _write_private(self._state_path("checkpoint"), note)

    def _advance(self, seen: tuple[int, bytes], facts: dict[str, Any]) -> Checkpoint:
        checkpoint = read_checkpoint(facts["checkpoint"], keys=self._log_keys)
        try:
            verify_consistency(
                old=seen[0], new=checkpoint.size, proof=_steps(facts["consistency"]), old_root=seen[1],
                new_root=checkpoint.root,
            )  # fmt: skip
        except ProofError as error:
            raise _forked(str(error)) from error
        self.remember(facts["checkpoint"])
        return checkpoint

    def seen(self) -> tuple[int, bytes]:
        """Size and root of the last checkpoint that this machine verified."""
        return self._seen()


def _forked(why: str) -> UntrustedGateError:
    return UntrustedGateError(
        f"the gate's audit log does not extend what this machine saw last ({why})",
        hint="do not approve: the log was rewritten. Keep ~/.local/state/unlatch and look at the gate itself",
    )


def _claims(facts: dict[str, Any], receipt: Receipt) -> Claims | None:
    data = base64url.decode(facts["claims"]) if facts["claims"] is not None else None
    if (base64url.digest(data) if data is not None else None) != receipt.claims:
        raise UntrustedGateError("the gate's claims are not the ones of its receipt", hint="do not approve")
    return Claims.parse(data) if data is not None else None


def _steps(texts: list[str]) -> list[bytes]:
    return [base64url.decode(text) for text in texts]


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
