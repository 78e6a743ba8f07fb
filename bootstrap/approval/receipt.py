"""The receipt: a gate's signed promise to decide on one point.

Rule 1: only a signing key that the sealed file pins (and, where configured, `unlock.gates` names) makes a receipt.
Rule 2: it names the point, the claims and the workload that were asked for; anything else is another request's receipt.
Rule 3: the addresses in it lie under the gate that was asked.
Rule 4: it names no host key but the one that asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import rfc8785

from unlatch.bootstrap.approval import base64url, strict_json
from unlatch.bootstrap.identity.proof import Identity
from unlatch.bootstrap.jose import thumbprint
from unlatch.errors import UntrustedGateError

MEDIA_TYPE = "application/unlatch-receipt+jwt"
TYPE = "unlatch-receipt+jwt"
MAX_BYTES = 8192
ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}

_TEXTS = (
    "id",
    "workload",
    "kid",
    "point",
    "nonce",
    "policy_revision",
    "poll",
    "card",
    "client",
    "origin",
    "gate",
)
_TIMES = ("issued", "expires")
_OPTIONAL = ("claims", "code", "identity")
_CODE = re.compile(r"[B-DF-HJ-NP-TV-XZ]{4}-[B-DF-HJ-NP-TV-XZ]{4}\Z")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the gate's keyholder signed. Times are Unix seconds; digests and thumbprints are base64url SHA-256.

    `identity` is what the asker proved to be (`identity.proof.Identity` as text); None where it proved nothing.
    """

    id: str
    workload: str
    kid: str
    point: str
    nonce: str
    policy_revision: str
    poll: str
    card: str
    client: str
    origin: str
    gate: str
    issued: int
    expires: int
    claims: str | None = None
    code: str | None = None
    identity: str | None = None

    def __repr__(self) -> str:
        return f"<Receipt {self.id} of {self.workload!r}>"

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read a receipt's payload.

        Raises:
            ValueError: a member is missing, unknown or of another type.
        """
        members = strict_json.read_object(payload)
        if members.keys() - {*_TEXTS, *_TIMES, *_OPTIONAL}:
            raise ValueError("unknown members in the receipt")
        if not all(isinstance(members.get(name), str) for name in _TEXTS):
            raise ValueError("a text is missing in the receipt")
        if not all(type(members.get(name)) is int for name in _TIMES):
            raise ValueError("a time is missing in the receipt")
        if not all(isinstance(members.get(name), str | None) for name in _OPTIONAL):
            raise ValueError("a member of the receipt has another type")
        if members.get("code") is not None and not _CODE.match(members["code"]):
            raise ValueError("the receipt's code is not two groups of four letters")
        if members.get("identity") is not None:
            Identity.parse(members["identity"])
        return cls(**members)

    def payload(self) -> bytes:
        """Canonical JSON (RFC 8785)."""
        return rfc8785.dumps({name: value for name, value in asdict(self).items() if value is not None})

    def signing_input(self, *, algorithm: str) -> bytes:
        """What the gate's key signs (RFC 7515 section 5.1)."""
        header = rfc8785.dumps({"alg": algorithm, "kid": self.gate, "typ": TYPE})
        return f"{base64url.encode(header)}.{base64url.encode(self.payload())}".encode()


def verify_receipt(token: bytes, *, keys: Iterable[Mapping[str, Any]]) -> Receipt:
    """Check a receipt's signature against the pinned signing keys and read it.

    Raises:
        UntrustedGateError: not a compact JWS of the right type, or not signed by one of `keys`.
    """
    from jwcrypto import jwk, jws
    from jwcrypto.common import JWException

    pinned = {thumbprint(key): key for key in keys}
    header = _header(token)
    key = pinned.get(str(header.get("kid")))
    if key is None:
        raise UntrustedGateError(
            f"the gate's receipt is not signed by a pinned key (wants {_short(pinned)}, got {_shorten(header.get('kid'))})",
            hint="do not retry. Someone may stand between you and the gate, or its keys changed: compare with"
            " `unlatch gate keys` on the gate itself",
        )
    algorithm = ALGORITHMS.get(str(key.get("crv")))
    try:
        checked = jws.JWS()
        checked.allowed_algs = [algorithm]
        checked.deserialize(token.decode("ascii"))
        checked.verify(jwk.JWK(**{name: key[name] for name in ("kty", "crv", "x", "y")}))
        return Receipt.parse(checked.payload)
    except (JWException, ValueError, TypeError, KeyError) as error:
        raise UntrustedGateError(
            "the gate's receipt is damaged, or its signature is wrong",
            hint="do not retry. Someone may stand between you and the gate",
        ) from error


def _header(token: bytes) -> dict[str, Any]:
    try:
        if len(token) > MAX_BYTES:
            raise ValueError("too long")
        head, _, _ = token.decode("ascii").split(".")
        header = strict_json.read_object(base64url.decode(head))
    except ValueError as error:
        raise UntrustedGateError(
            "the gate answered with something that is no receipt",
            hint="is this address a gate? a web proxy or log-in page may answer in its place",
        ) from error
    if header.get("typ") != TYPE or header.keys() != {"alg", "kid", "typ"}:
        raise UntrustedGateError("the gate signed something that is no receipt", hint="do not retry")
    return header


def check_receipt(
    receipt: Receipt,
    *,
    base: str,
    workload: str,
    kid: str,
    point: str,
    claims: str | None,
    now: float,
    identity: str | None = None,
) -> None:
    """Refuse a receipt for another request, an old one, or one that leads elsewhere.

    Args:
        base: the gate's address as the sealed file pins it, without ``/s/NAME``.
        claims: digest of the claims that were sent.
        identity: thumbprint of the host key that asked. An older gate names none.

    Raises:
        UntrustedGateError: says which member differs.
    """
    wanted = {"workload": workload, "kid": kid, "point": point, "claims": claims}
    for name, value in wanted.items():
        if getattr(receipt, name) != value:
            raise UntrustedGateError(
                f"the gate's receipt is for another request ({name} differs)", hint="do not retry"
            )
    if receipt.identity is not None and Identity.parse(receipt.identity).key != identity:
        raise UntrustedGateError("the gate's receipt names another host's key", hint="do not retry")
    if receipt.expires <= now:
        raise UntrustedGateError(
            "the gate's receipt is out of date", hint="compare this host's clock with the gate's"
        )
    for what, address, path in (
        ("poll", receipt.poll, f"/s/{workload}/wait/"),
        ("card", receipt.card, "/r/"),
    ):
        if not is_under(address, base, path):
            raise UntrustedGateError(
                f"the {what} address in the gate's receipt does not lie under {base}{path}",
                hint="was the file sealed to another name of this gate? `gate serve --url` must be the address in the file",
            )


def is_under(address: str, base: str, path: str) -> bool:
    """Whether an address is `base` + `path` + one plain segment, letter by letter."""
    prefix = base.rstrip("/") + path
    return address.startswith(prefix) and re.fullmatch(r"[A-Za-z0-9_-]+", address[len(prefix) :]) is not None


def split_gate_url(url: str) -> tuple[str, str | None]:
    """The address of a gate and the workload in it.

    Returns:
        ``("https://gate.example", "pay")`` for ``https://gate.example/s/pay``; the workload is None where the
        address is a plain Tang server's. An address without a scheme is http, as curl reads it.
    """
    full = url if "://" in url else f"http://{url}"
    full = full.rstrip("/")
    match = re.fullmatch(r"(.*)/s/([a-z0-9][a-z0-9._-]{0,63})", full)
    if match is None or not urlsplit(full).hostname:
        return full, None
    return match[1], match[2]


def pinned_keys(
    keys: Sequence[Mapping[str, Any]], *, gates: frozenset[str] | None
) -> list[Mapping[str, Any]]:
    """The signing keys of a sealed file that the configuration believes too.

    Raises:
        UntrustedGateError: none is left.
    """
    chosen = [key for key in keys if gates is None or thumbprint(key) in gates]
    if not chosen:
        found = {thumbprint(key): key for key in keys}
        raise UntrustedGateError(
            f"the sealed file pins a gate that the configuration does not name (wants {_short(gates or ())}, got {_short(found)})",
            hint="was the sealed file swapped? compare with `unlatch inspect` and unlock.gates",
        )
    return chosen


def _short(values: Iterable[str]) -> str:
    return ", ".join(_shorten(value) for value in sorted(values)) or "none"


def _shorten(value: object) -> str:
    text = value if isinstance(value, str) and base64url.is_digest(value) else ""
    return f"{text[:4]}…{text[-4:]}" if text else "no key"
