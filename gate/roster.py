"""The roster: operators, workloads and hosts in force, folded from the chain of enrolments and from nothing else.

Rule 1: an enrolment counts only if its number and `prev` continue the chain and an administrator in force signed it.
Rule 2: a key belongs to one human, a workload's exchange key to one workload.
Rule 3: one administrator always remains.
Rule 4: a host has one key; a key that was replaced or suspended never counts again, for no host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from unlatch.bootstrap.identity.proof import HostKey, Identity, Protection
from unlatch.gate import enrolment as enrolments
from unlatch.gate.checkpoint import LogKeys, VerifierKey
from unlatch.gate.enrolment import (
    AddHost,
    AddOperator,
    Change,
    Clients,
    EnrolmentError,
    Genesis,
    SetWorkload,
    Suspend,
    SuspendHost,
)
from unlatch.gate.sshsig import PublicKey, Signature, verify_sshsig


@dataclass(frozen=True, slots=True)
class Operator:
    """One human: his keys, whether he may enrol others, whether his signatures count."""

    name: str
    keys: tuple[PublicKey, ...]
    is_admin: bool
    is_suspended: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload in force. `revision` is the digest of the enrolment that set it; times are seconds."""

    name: str
    kid: str
    approvers: tuple[str, ...]
    quorum: int
    clients: Clients
    hold: int
    expires: int
    revision: str

    def allows(self, client: str) -> bool:
        """Whether `native` or `stock` clients may ask for it."""
        return self.clients in (client, "both")


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that asks. `key` is its key's thumbprint, `protection` where an administrator says that it lies."""

    name: str
    key: str
    protection: Protection
    is_suspended: bool = False


@dataclass(frozen=True, slots=True)
class Roster:
    """Everything that the chain says, up to one enrolment."""

    genesis: Genesis
    fingerprint: str
    head: str
    seq: int
    operators: Mapping[str, Operator] = field(default_factory=dict)
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    kids: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    host_keys: Mapping[str, str] = field(default_factory=dict)
    """Every key that was ever enrolled, by thumbprint, with its host."""

    @classmethod
    def begin(cls, data: bytes) -> Roster:
        """The roster of a genesis.

        Raises:
            EnrolmentError: not a genesis.
        """
        link, change = enrolments.read_enrolment(data)
        if not isinstance(change, Genesis) or link.seq != 0 or link.prev != "":
            raise EnrolmentError("the first enrolment is no genesis")
        VerifierKey.parse(change.log)
        VerifierKey.parse(change.clock)
        admin = Operator(name=change.name, keys=(PublicKey.parse(change.key),), is_admin=True)
        digest = enrolments.enrolment_digest(data)
        return cls(
            genesis=change,
            fingerprint=digest,
            head=digest,
            seq=0,
            operators=MappingProxyType({admin.name: admin}),
        )

    @classmethod
    def fold(cls, chain: Iterable[tuple[bytes, str | None]]) -> Roster:
        """The roster after a whole chain of (enrolment, signature).

        Raises:
            EnrolmentError: one of them does not hold.
        """
        iterator = iter(chain)
        first = next(iterator, None)
        if first is None:
            raise EnrolmentError("a chain without a genesis")
        roster = cls.begin(first[0])
        for data, signature in iterator:
            roster = roster.enrol(data, signature or "")
        return roster

    @property
    def log_keys(self) -> LogKeys:
        """The public keys of this gate's audit log."""
        return LogKeys(log=VerifierKey.parse(self.genesis.log), clock=VerifierKey.parse(self.genesis.clock))

    def enrol(self, data: bytes, signature: str) -> Roster:
        """The roster after one more enrolment.

        Raises:
            EnrolmentError: out of place, not by an administrator in force, or against the rules.
            SignatureError: the signature itself does not hold.
        """
        link, change = enrolments.read_enrolment(data)
        if link.seq != self.seq + 1 or link.prev != self.head:
            raise EnrolmentError(
                f"an enrolment for another place in the chain (number {link.seq}, next is {self.seq + 1})"
            )
        signer = self.operator_of(verify_sshsig(signature, data, namespace=enrolments.NAMESPACE))
        if not signer.is_admin:
            raise EnrolmentError(f"{signer.name} is no administrator")
        digest = enrolments.enrolment_digest(data)
        following = replace(self, seq=link.seq, head=digest)
        return following._take(change, digest)  # noqa: SLF001 - our own class

    def operator_of(self, signature: Signature) -> Operator:
        """The operator in force whose key made a signature.

        Raises:
            EnrolmentError: nobody's, or a suspended operator's.
        """
        operator = self.find_key(signature.key)
        if operator is None:
            raise EnrolmentError(f"{signature.key.fingerprint} is no operator's key")
        if operator.is_suspended:
            raise EnrolmentError(f"{operator.name} is suspended")
        return operator

    def find_key(self, key: PublicKey) -> Operator | None:
        """Whose key this is, in force or not."""
        return next((operator for operator in self.operators.values() if key in operator.keys), None)

    def identity_of(self, key: HostKey) -> Identity:
        """What is known of a host's key.

        Raises:
            EnrolmentError: it was suspended or replaced.
        """
        thumbprint = key.thumbprint
        name = self.host_keys.get(thumbprint)
        if name is None:
            return Identity(thumbprint)
        host = self.hosts[name]
        if host.is_suspended or host.key != thumbprint:
            raise EnrolmentError(f"the key of host {name} counts no more")
        return Identity(thumbprint, name, host.protection)

    def _take(self, change: Change, digest: str) -> Roster:
        match change:
            case AddOperator():
                return self._add_operator(change)
            case Suspend():
                return self._suspend(change)
            case SetWorkload():
                return self._set_workload(change, digest)
            case AddHost():
                return self._add_host(change)
            case SuspendHost():
                return self._suspend_host(change)
            case Genesis():
                raise EnrolmentError("a second genesis")

    def _add_host(self, change: AddHost) -> Roster:
        thumbprint = HostKey.parse(change.key).thumbprint
        if thumbprint in self.host_keys:
            raise EnrolmentError(f"this key was enrolled before, for host {self.host_keys[thumbprint]}")
        host = Host(name=change.name, key=thumbprint, protection=change.protection)
        keys = MappingProxyType({**self.host_keys, thumbprint: change.name})
        return replace(self._with_host(host), host_keys=keys)

    def _suspend_host(self, change: SuspendHost) -> Roster:
        host = self.hosts.get(change.name)
        if host is None:
            raise EnrolmentError(f"no host is called {change.name}")
        return self._with_host(replace(host, is_suspended=True))

    def _with_host(self, host: Host) -> Roster:
        return replace(self, hosts=MappingProxyType({**self.hosts, host.name: host}))

    def _add_operator(self, change: AddOperator) -> Roster:
        key = PublicKey.parse(change.key)
        if self.find_key(key) is not None:
            raise EnrolmentError(f"{key.fingerprint} is enrolled already")
        known = self.operators.get(change.name)
        if known is not None and known.is_suspended:
            raise EnrolmentError(f"{change.name} is suspended")
        keys = (*known.keys, key) if known else (key,)
        is_admin = change.admin or (known is not None and known.is_admin)
        return self._with_operator(Operator(name=change.name, keys=keys, is_admin=is_admin))

    def _suspend(self, change: Suspend) -> Roster:
        operator = self.operators.get(change.name)
        if operator is None:
            raise EnrolmentError(f"no operator is called {change.name}")
        others = [
            one
            for one in self.operators.values()
            if one.is_admin and not one.is_suspended and one != operator
        ]
        if not others:
            raise EnrolmentError("the last administrator cannot be suspended")
        return self._with_operator(replace(operator, is_suspended=True))

    def _set_workload(self, change: SetWorkload, digest: str) -> Roster:
        for name in change.approvers:
            operator = self.operators.get(name)
            if operator is None or operator.is_suspended:
                raise EnrolmentError(f"{name} is no operator in force")
        if self.kids.get(change.kid, change.name) != change.name:
            raise EnrolmentError("this key belongs to another workload")
        workload = Workload(
            name=change.name, kid=change.kid, approvers=change.approvers, quorum=change.quorum,
            clients=change.clients, hold=change.hold, expires=change.expires, revision=digest,
        )  # fmt: skip
        return replace(
            self,
            workloads=MappingProxyType({**self.workloads, change.name: workload}),
            kids=MappingProxyType({**self.kids, change.kid: change.name}),
        )

    def _with_operator(self, operator: Operator) -> Roster:
        return replace(self, operators=MappingProxyType({**self.operators, operator.name: operator}))
