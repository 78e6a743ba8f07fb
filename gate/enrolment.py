"""Enrolments: who is an operator, which workload opens by whom, which host's key has a name. Signed by administrators, chained
to the genesis.

Each enrolment is canonical JSON (RFC 8785), signed with SSHSIG namespace ``unlatch-enrol-v1``. `prev` is the
digest of the one before, so an enrolment fits in one place of one gate's chain only. The first, the
genesis, is not signed: its digest is the fingerprint that `gate init` prints and `audit verify` pins.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import rfc8785

from unlatch.bootstrap.approval import base64url, strict_json
from unlatch.bootstrap.identity.proof import PROTECTIONS, HostKey, Protection
from unlatch.errors import RefusedError

NAMESPACE = "unlatch-enrol-v1"
MAX_BYTES = 8192
MAX_HOLD_SECONDS = 3600
MAX_EXPIRES_SECONDS = 24 * 3600

Clients = Literal["native", "stock", "both"]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")


class EnrolmentError(RefusedError):
    """An enrolment is malformed, in the wrong place, not signed by an administrator, or against the rules."""


@dataclass(frozen=True, slots=True)
class Link:
    """Where an enrolment stands: its number, the digest of the one before, and when it was signed (Unix seconds)."""

    seq: int
    prev: str
    time: int


@dataclass(frozen=True, slots=True)
class Genesis:
    """The first administrator, and the gate's public keys: signing key's thumbprint, log and clock as vkeys."""

    kind: ClassVar[str] = "genesis"
    name: str
    key: str
    gate: str
    log: str
    clock: str


@dataclass(frozen=True, slots=True)
class AddOperator:
    """A key of an operator. A second key for the same name is a second key of the same human."""

    kind: ClassVar[str] = "operator"
    name: str
    key: str
    admin: bool


@dataclass(frozen=True, slots=True)
class Suspend:
    """An operator whose signatures no longer count."""

    kind: ClassVar[str] = "suspend"
    name: str


@dataclass(frozen=True, slots=True)
class SetWorkload:
    """A workload's exchange key and policy; a later one of the same name replaces it. Times are seconds."""

    kind: ClassVar[str] = "workload"
    name: str
    kid: str
    approvers: tuple[str, ...]
    quorum: int
    clients: Clients
    hold: int
    expires: int


@dataclass(frozen=True, slots=True)
class AddHost:
    """A host's key; a later one of the same name replaces it. `protection` is what the administrator vouches for."""

    kind: ClassVar[str] = "host"
    name: str
    key: str
    protection: Protection


@dataclass(frozen=True, slots=True)
class SuspendHost:
    """A host whose key no longer counts."""

    kind: ClassVar[str] = "suspend-host"
    name: str


Change = Genesis | AddOperator | Suspend | SetWorkload | AddHost | SuspendHost
_KINDS: dict[str, type[Change]] = {
    kind.kind: kind for kind in (Genesis, AddOperator, Suspend, SetWorkload, AddHost, SuspendHost)
}


def write_enrolment(link: Link, change: Change) -> bytes:
    """The bytes that an administrator signs."""
    return rfc8785.dumps({"unlatch": 1, "kind": change.kind, **asdict(link), **_plain(change)})


def read_enrolment(data: bytes) -> tuple[Link, Change]:
    """Read an enrolment.

    Raises:
        EnrolmentError: not canonical, a member is missing, unknown, of another type or out of range.
    """
    try:
        if len(data) > MAX_BYTES:
            raise ValueError("too long")
        members = strict_json.read_object(data)
        if rfc8785.dumps(members) != data:
            raise ValueError("not canonical")
        strict_json.check_version(members.pop("unlatch", None), 1)
        kind = _KINDS[members.pop("kind", "")]
        link = Link(
            *(
                _typed(members.pop(name, None), wanted)
                for name, wanted in (("seq", int), ("prev", str), ("time", int))
            )
        )
        change = kind(**_tuples(members))
        _check(link, change)
    except (ValueError, TypeError, KeyError, rfc8785.CanonicalizationError) as error:
        raise EnrolmentError(f"an enrolment that cannot be read: {error}") from error
    return link, change


def enrolment_digest(data: bytes) -> str:
    """What the next enrolment's `prev` and a workload's policy revision say; of the genesis, the fingerprint."""
    return base64url.digest(b"unlatch-enrolment-v1\0" + data)


def _plain(change: Change) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(change).items()
    }


def _tuples(members: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in members.items()}


def _typed(value: Any, wanted: type) -> Any:
    if type(value) is not wanted:
        raise ValueError("a member is missing or of another type")
    return value


def _check(link: Link, change: Change) -> None:
    if link.seq < 0 or link.time < 0:
        raise ValueError("a negative number")
    if not isinstance(change.name, str) or not NAME.match(change.name):
        raise ValueError("a name is 1 to 64 of a-z 0-9 . _ - and starts with a letter or digit")
    if isinstance(change, Genesis | AddOperator):
        _typed(change.key, str)
    if isinstance(change, Genesis):
        _check_genesis(change)
    elif isinstance(change, AddOperator):
        _typed(change.admin, bool)
    elif isinstance(change, SetWorkload):
        _check_workload(change)
    elif isinstance(change, AddHost):
        HostKey.parse(_typed(change.key, str))
        if change.protection not in PROTECTIONS:
            raise ValueError("a host key lies in a tpm or a file")


def _check_genesis(change: Genesis) -> None:
    _typed(change.log, str)
    _typed(change.clock, str)
    if not base64url.is_digest(change.gate):
        raise ValueError("the gate's thumbprint is none")


def _check_workload(change: SetWorkload) -> None:
    if not base64url.is_digest(change.kid):
        raise ValueError("the key's thumbprint is none")
    approvers = _typed(change.approvers, tuple)
    if not approvers or not all(isinstance(name, str) and NAME.match(name) for name in approvers):
        raise ValueError("a workload needs at least one approver")
    if len(set(approvers)) != len(approvers):
        raise ValueError("one human counts once: an approver stands twice")
    if not 1 <= _typed(change.quorum, int) <= len(approvers):
        raise ValueError(f"a quorum of {change.quorum} of {len(approvers)} approvers")
    if change.clients not in get_args(Clients):
        raise ValueError("clients are native, stock or both")
    if not 1 <= _typed(change.hold, int) <= MAX_HOLD_SECONDS:
        raise ValueError(f"hold is 1 s to {MAX_HOLD_SECONDS} s")
    if not 1 <= _typed(change.expires, int) <= MAX_EXPIRES_SECONDS:
        raise ValueError(f"expires is 1 s to {MAX_EXPIRES_SECONDS} s")
