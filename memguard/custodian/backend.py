"""What a custodian's service asks of the hardware behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from unlatch.memguard.custodian.handshake import Algorithm, Method
from unlatch.memguard.custodian.page import LockedPage
from unlatch.memguard.custodian.signatures import PublicKey


@dataclass(frozen=True, slots=True)
class Key:
    """A key that was found, under the number that the configuration gives it."""

    id: int
    name: str
    algorithm: Algorithm
    public: PublicKey
    schemes: tuple[int, ...]
    """TLS signature schemes that the hardware can do."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A key that was not found, and why."""

    id: int
    name: str
    reason: str


class Signer(Protocol):
    """One thread's way to the keys."""

    def sign(self, key: Key, method: Method, message: bytes) -> bytes:
        """Sign; the signature stands in TLS's form and is not yet checked.

        Raises:
            UnavailableError: the hardware does not answer.
            RefusedError: it says no.
        """
        ...

    def close(self) -> None:
        """Give back what this thread holds."""
        ...


class Backend(Protocol):
    """A token or TPM. Called by one thread at a time, but for the signers."""

    @property
    def workers(self) -> int:
        """How many signers may work at once."""
        ...

    @property
    def needs_pin(self) -> bool:
        """Whether a PIN must come before the keys show themselves."""
        ...

    def start(self) -> None:
        """Find the hardware; again after `stop`.

        Raises:
            UnavailableError: it is not there.
            ConfigError: it never will be.
        """
        ...

    def login(self, pin: LockedPage, size: int) -> None:
        """Use a PIN, once."""
        ...

    def find_keys(self) -> list[Key | Missing]:
        """Look every configured key up."""
        ...

    def signer(self) -> Signer:
        """Make a signer for the calling thread."""
        ...

    def probe(self) -> None:
        """Raise UnavailableError when the hardware went away."""
        ...

    def stop(self) -> None:
        """Let go of everything; no signer is in use then."""
        ...
