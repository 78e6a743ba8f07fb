"""Sessions of operators: one signature, then some hours of reading. A session decides nothing and opens nothing.

The list of requests names hosts, addresses and reasons, so it is not for everybody; asking for a signature at each
look would teach people to touch their keys without reading.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

import sqlalchemy as sa

from unlatch.bootstrap.approval import base64url
from unlatch.errors import RefusedError
from unlatch.gate.database import Ledger
from unlatch.gate.roster import Operator, Roster
from unlatch.gate.sshsig import verify_sshsig
from unlatch.gate.statement import SESSION_NAMESPACE, session_message
from unlatch.gate.tables import sessions

SESSION_SECONDS = 8 * 3600
CHALLENGE_SECONDS = 120
MAX_USED = 10_000


class SessionError(RefusedError):
    """No session, an old one, or a challenge that does not hold."""


class Sessions:
    """Challenges and tokens.

    Args:
        secret: 32 random bytes, fresh for this process: challenges do not outlive it, sessions do.
        now: Unix seconds.
        random_bytes: as `secrets.token_bytes`.
    """

    def __init__(
        self, ledger: Ledger, *, secret: bytes, now: Callable[[], float], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._ledger, self._secret = ledger, secret
        self._now, self._random = now, random_bytes
        self._used: dict[str, float] = {}

    def challenge(self) -> str:
        """A text to sign within two minutes."""
        head = int(self._now()).to_bytes(8, "big") + self._random(16)
        return base64url.encode(head + self._mac(head))

    async def open(
        self, *, nonce: str, signature: str, roster: Roster, origin: str
    ) -> tuple[str, Operator, int]:
        """Take a signed challenge.

        Returns:
            The token, whose it is, and until when (Unix seconds).

        Raises:
            RefusedError: the challenge or the signature does not hold.
        """
        self._check_challenge(nonce)
        message = session_message(gate=roster.genesis.gate, origin=origin, nonce=nonce)
        operator = roster.operator_of(verify_sshsig(signature, message, namespace=SESSION_NAMESPACE))
        self._use_up(nonce)
        token, expires = base64url.encode(self._random(32)), int(self._now()) + SESSION_SECONDS
        async with self._ledger.change() as book:
            await book.execute(sa.delete(sessions).where(sessions.c.expires <= int(self._now())))
            values = {
                "token_digest": base64url.digest(token.encode()),
                "operator": operator.name,
                "expires": expires,
            }
            await book.execute(sa.insert(sessions).values(values))
        return token, operator, expires

    async def check(self, authorization: str | None, *, roster: Roster) -> Operator:
        """Whose session an Authorization header names.

        Raises:
            SessionError: nobody's that is in force.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise SessionError("sign in first")
        column = sessions.c
        query = sa.select(sessions).where(column.token_digest == base64url.digest(token.encode()))
        rows = await self._ledger.fetch(query)
        operator = roster.operators.get(rows[0].operator) if rows else None
        if operator is None or operator.is_suspended or rows[0].expires <= self._now():
            raise SessionError("this session is over: sign in again")
        return operator

    def _check_challenge(self, nonce: str) -> None:
        try:
            data = base64url.decode(nonce)
        except ValueError as error:
            raise SessionError("a challenge that is none") from error
        head, mac = data[:24], data[24:]
        age = self._now() - int.from_bytes(head[:8], "big")
        if (
            not hmac.compare_digest(mac, self._mac(head))
            or not -1 <= age <= CHALLENGE_SECONDS
            or nonce in self._used
        ):
            raise SessionError("the challenge is over: ask for a new one")

    def _use_up(self, nonce: str) -> None:
        """Mark a challenge, after its signature: strangers must not fill the table of used ones."""
        limit = self._now() - CHALLENGE_SECONDS - 1
        self._used = {one: since for one, since in self._used.items() if since > limit}
        if len(self._used) >= MAX_USED:
            raise SessionError("too many sessions at once")
        self._used[nonce] = self._now()

    def _mac(self, head: bytes) -> bytes:
        return hmac.digest(self._secret, b"unlatch-challenge-v1" + head, "sha256")
