"""The tang pin: one blinded question, one answer.

Rule 1: the answer is checked (curve, point, not infinity) before it is used, and the key it gives is checked against
the file's tag: a server that lies is told apart from one that is silent.
Rule 2: what the server sees is a fresh random point and the key's thumbprint, never which file asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from unlatch.bootstrap import jose
from unlatch.bootstrap.pins.tree import TangPin
from unlatch.errors import DamagedFileError, UntrustedGateError
from unlatch.memguard._native import Exchange, Secret, jwe_verify


class Transport(Protocol):
    """Carries a recovery request to a Tang server or gate. Called from several threads at once."""

    def recover(
        self,
        *,
        url: str,
        kid: str,
        request: bytes,
        thumbprint: str,
        signing_keys: Sequence[Mapping[str, object]],
    ) -> bytes:
        """Post a point and give the answer's body.

        Args:
            url: as sealed, without `/rec/…`.
            kid: thumbprint of the exchange key.
            request: the JWK to post.
            thumbprint: RFC 7638 SHA-256 of the posted point, for receipts.
            signing_keys: public JWKs of which one must have signed a receipt.

        Raises:
            UnlatchError: no answer, or a refusal.
        """
        ...


def recover(compact: bytes, header: bytes, pin: TangPin, *, transport: Transport) -> Secret:
    """Give the content key of a JWE sealed to a Tang server.

    Raises:
        DamagedFileError: the header's points are wrong, or the answer does not open the file.
        UntrustedGateError: the answer is no point of the right curve.
        UnlatchError: as the transport says.
    """
    exchange = Exchange(header, jose.write_json(pin.exchange_key))
    answer = transport.recover(
        url=pin.url,
        kid=pin.kid,
        request=exchange.request,
        thumbprint=exchange.thumbprint,
        signing_keys=pin.signing_keys,
    )
    if answer.lstrip()[:1] == b"<":
        raise UntrustedGateError(
            f"{pin.url} answered with a web page instead of a key",
            hint="a captive portal, login page or wrong address stands there: try the address with curl",
        )
    try:
        key = exchange.finish(answer)
    except UntrustedGateError as error:
        raise UntrustedGateError(f"{pin.url}: {error}", hint=error.hint) from error
    try:
        jwe_verify(compact, key)
    except DamagedFileError as error:
        raise DamagedFileError(
            f"the answer of {pin.url} does not open the file",
            hint="the file was altered after sealing, or this server lies: compare the digest with a copy of the file",
        ) from error
    return key
