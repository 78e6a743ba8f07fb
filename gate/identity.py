"""Who asks, as far as a key can show it: challenges, and proofs of host keys over them.

Rule 1: a challenge is a time under the signature of the log's clock. Nobody keeps one, every part of the gate can check
one, and so can whoever verifies the audit log later.
Rule 2: a proof is good only with a challenge that is at most two minutes old, over this point and these claims.
Rule 3: a key that was suspended or replaced is refused; a key that nobody enrolled is `new`. Neither opens anything, and
an enrolled key does not either: people approve.
"""

from __future__ import annotations

from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.identity.proof import Asking, Identity, Proof, ProofError
from unlatch.errors import RefusedError
from unlatch.gate.checkpoint import CheckpointError
from unlatch.gate.roster import Roster

MAX_AGE_SECONDS = 120
MAX_AHEAD_SECONDS = 60  # clocks of two gates that share their keys
_DOMAIN = b"unlatch-challenge-v1\0"
_TIME_BYTES = 8


class IdentityError(RefusedError):
    """A host's proof is malformed or wrong, or its key counts no more."""


class StaleChallengeError(RefusedError):
    """The challenge is not this gate's, or too old: the host may sign another one."""


def challenge_message(*, gate: str, time: int) -> bytes:
    """What the clock's key signs: the gate's thumbprint and a time in Unix seconds."""
    return _DOMAIN + gate.encode() + b"\0" + time.to_bytes(_TIME_BYTES, "big")


def write_challenge(*, time: int, signature: bytes) -> str:
    """A challenge as it travels: 8 bytes of time, 64 of signature, in base64url."""
    return base64url.encode(time.to_bytes(_TIME_BYTES, "big") + signature)


def check_challenge(text: str, *, roster: Roster, now: float, max_age: float = MAX_AGE_SECONDS) -> None:
    """Refuse a challenge that this gate did not give, or not lately.

    Args:
        text: of the right length and alphabet.
        now: Unix seconds.

    Raises:
        StaleChallengeError: says which.
    """
    data = base64url.decode(text)
    time = int.from_bytes(data[:_TIME_BYTES], "big")
    if not -MAX_AHEAD_SECONDS <= now - time <= max_age:
        raise StaleChallengeError("the challenge is out of date")
    try:
        message = challenge_message(gate=roster.genesis.gate, time=time)
        roster.log_keys.clock.verify(data[_TIME_BYTES:], message)
    except CheckpointError as error:
        raise StaleChallengeError("the challenge is another gate's") from error


def identify(
    header: str, asking: Asking, *, roster: Roster, now: float, max_age: float = MAX_AGE_SECONDS
) -> Identity:
    """Say who asks.

    Args:
        header: the proof as the host sent it.
        asking: what was asked for.
        now: Unix seconds.
        max_age: how old the challenge may be.

    Raises:
        StaleChallengeError: there is no challenge in it yet, or none that counts.
        IdentityError: malformed, or a wrong signature.
        EnrolmentError: the key counts no more.
    """
    try:
        proof = Proof.parse(header)
    except ProofError as error:
        raise IdentityError(str(error)) from error
    if proof.challenge is None:
        raise StaleChallengeError("no challenge was signed")
    check_challenge(proof.challenge, roster=roster, now=now, max_age=max_age)
    try:
        proof.verify(asking)
    except ProofError as error:
        raise IdentityError(str(error)) from error
    return roster.identity_of(proof.key)


def check_in_force(identity: str | None, *, roster: Roster) -> None:
    """Refuse a request whose host key was suspended or replaced since.

    Raises:
        IdentityError: it was.
    """
    if identity is None:
        return
    found = Identity.parse(identity)
    host = roster.hosts.get(found.name or "")
    if found.is_enrolled and (host is None or host.key != found.key or host.is_suspended):
        raise IdentityError(f"the key of host {found.name} counts no more")
