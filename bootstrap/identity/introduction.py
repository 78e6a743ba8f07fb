"""How an asker names itself to a gate: first its key, and once the gate gave a challenge, a signature over it.

A host key that does not work never keeps a host from asking: it asks without one, says so, and the card shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unlatch.bootstrap.http import HttpReply
from unlatch.bootstrap.identity.keys import HostSigner
from unlatch.bootstrap.identity.proof import CHALLENGE_HEADER, Asking, Proof, ProofError, check_challenge
from unlatch.bootstrap.pins.race import within
from unlatch.errors import UnlatchError, UnreachableError

SIGN_SECONDS = 10.0  # a slow TPM takes half a second
MAX_CHALLENGES = 3  # one, and one more where the gate was started again meanwhile


@dataclass(slots=True)
class Introduction:
    """One asking's headers.

    Args:
        signer: the host's key.
        asking: what it asks for.
        tell: says a line to whoever waits.
    """

    signer: HostSigner
    asking: Asking
    tell: Callable[[str], None]
    _header: str | None = None
    _challenges: int = 0

    def __post_init__(self) -> None:
        self._header = str(Proof(self.signer.public))

    @property
    def header(self) -> str | None:
        """What to send next; None once the key was given up."""
        return self._header

    @property
    def key(self) -> str | None:
        """The thumbprint that the gate may name in its receipt."""
        return self.signer.public.thumbprint if self._header is not None else None

    def take_challenge(self, reply: HttpReply, *, address: str) -> bool:
        """Sign the challenge of a reply; says whether there was one.

        Raises:
            UnreachableError: the gate takes none of its own challenges.
        """
        text = reply.header(CHALLENGE_HEADER)
        try:
            check_challenge(text or "")
        except ProofError:
            return False
        assert text is not None
        if self._header is None:
            return False
        self._challenges += reply.status == 401
        if self._challenges > MAX_CHALLENGES:
            raise UnreachableError(
                f"{address} does not take its own challenge",
                hint="do several gates answer at this address? then their clocks or keys differ",
            )
        self._sign(text)
        return True

    def _sign(self, challenge: str) -> None:
        try:
            message = self.asking.message(challenge)
            signature = within(SIGN_SECONDS, lambda: self.signer.sign(message))
        except TimeoutError:
            self._give_up(f"no signature within {SIGN_SECONDS:g} s")
        except UnlatchError as error:
            self._give_up(str(error))
        else:
            self._header = str(Proof(self.signer.public, challenge, signature))

    def _give_up(self, why: str) -> None:
        self._header = None
        self.tell(f"asking without the host key: {why}")
