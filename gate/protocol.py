"""Tang's protocol as bytes in, status out: paths, the recovery request, the point on its curve.

Checks and their order are tangd's, and so are the statuses. What tangd lets pass and we do not: a member twice, a
coordinate that is not of full length or not below p, a private part, a body over 4 KiB.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import rfc8785

from unlatch.bootstrap.approval import base64url, strict_json
from unlatch.bootstrap.jose import thumbprint

MAX_BODY_BYTES = 4096
MAX_URL_BYTES = 4095

_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
_ADV = re.compile(rf"/s/({_NAME})/+adv/*\Z")
_ADV_THP = re.compile(rf"/s/({_NAME})/+adv/+([0-9A-Za-z_-]+)\Z")
_REC = re.compile(rf"/s/({_NAME})/+rec/+([0-9A-Za-z_-]+)\Z")
_WAIT = re.compile(rf"/s/({_NAME})/wait/([0-9A-Za-z_-]+)\Z")
_CARD = re.compile(r"/r/([0-9A-Za-z]{1,32})\Z")
_GATE = re.compile(r"/adv/*\Z")


@dataclass(frozen=True, slots=True)
class Curve:
    """A short Weierstrass curve with a = -3: prime, b, bytes of a coordinate."""

    prime: int
    b: int
    size: int


# Parameters: FIPS 186-4 appendix D.1.2 (SP 800-186 section 3.2.1).
CURVES = {
    "P-256": Curve(
        prime=2**256 - 2**224 + 2**192 + 2**96 - 1,
        b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
        size=32,
    ),
    "P-384": Curve(
        prime=2**384 - 2**128 - 2**96 + 2**32 - 1,
        b=0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
        size=48,
    ),
    "P-521": Curve(
        prime=2**521 - 1,
        b=0x0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
        size=66,
    ),
}  # fmt: skip

Kind = Literal["advertisement", "recovery", "wait", "card", "gate"]
_ROUTES: tuple[tuple[Kind, str, re.Pattern[str]], ...] = (
    ("advertisement", "GET", _ADV),
    ("advertisement", "GET", _ADV_THP),
    ("recovery", "POST", _REC),
    ("wait", "GET", _WAIT),
    ("card", "GET", _CARD),
    ("gate", "GET", _GATE),
)


class StatusError(Exception):
    """A request that is answered by a bare status, as tangd answers it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Route:
    """Where a path leads: what is asked, of which workload, and the last segment (thumbprint, kid, token or id)."""

    kind: Kind
    workload: str
    rest: str


def route(method: str, path: str) -> Route:
    """Read a raw path, query string included, percent signs as they came.

    Raises:
        StatusError: 414 too long, 404 no such path, 405 another method.
    """
    if len(path) > MAX_URL_BYTES:
        raise StatusError(414)
    for kind, allowed, pattern in _ROUTES:
        match = pattern.match(path)
        if match is None:
            continue
        if method != allowed:
            raise StatusError(405)
        groups = match.groups()
        if kind in ("card", "gate"):
            return Route(kind, "", groups[0] if groups else "")
        return Route(kind, groups[0], groups[1] if len(groups) > 1 else "")
    raise StatusError(404)


@dataclass(frozen=True, slots=True)
class Point:
    """A point to multiply: its canonical JWK (four members, sorted, compact) and that JWK's thumbprint."""

    jwk: bytes
    thumbprint: str


def read_recovery(
    body: bytes, *, kid: str, exchange: Mapping[str, Mapping[str, Any]], signing: Collection[str]
) -> tuple[str, Point]:
    """Check a recovery request in tangd's order.

    Args:
        exchange: the exchange keys of this workload (public JWKs) by every thumbprint a path may name.
        signing: every thumbprint of the signing key, which may not be multiplied with.

    Returns:
        The SHA-256 thumbprint of the exchange key and the point.

    Raises:
        StatusError: 413, 400, 403 or 404.
    """
    if len(body) > MAX_BODY_BYTES:
        raise StatusError(413)
    try:
        request = strict_json.read_object(body)
    except ValueError as error:
        raise StatusError(400) from error
    if not _may_derive(request):
        raise StatusError(403)
    if request.get("kty") != "EC" or request.get("alg", "ECMR") != "ECMR" or "d" in request:
        raise StatusError(400)
    if kid in signing:
        raise StatusError(403)
    key = exchange.get(kid)
    if key is None:
        raise StatusError(404)
    if request.get("crv") != key["crv"]:
        raise StatusError(400)
    return thumbprint(key), read_point(request)


def read_point(jwk: Mapping[str, Any]) -> Point:
    """A point on its curve from a JWK.

    Raises:
        StatusError: 400: a coordinate is missing, not of full length or not below p, or the point is off the curve.
    """
    curve = CURVES.get(str(jwk.get("crv")))
    if curve is None:
        raise StatusError(400)
    x, y = (_coordinate(jwk.get(name), curve) for name in ("x", "y"))
    # The point at infinity has no coordinates, and (0, 0) lies on none of these curves (b is not 0).
    if (y * y - (x * x * x - 3 * x + curve.b)) % curve.prime:
        raise StatusError(400)
    members = {name: jwk[name] for name in ("crv", "x", "y")} | {"kty": "EC"}
    return Point(jwk=rfc8785.dumps(members), thumbprint=thumbprint(members))


def _coordinate(text: object, curve: Curve) -> int:
    if not isinstance(text, str):
        raise StatusError(400)
    try:
        data = base64url.decode(text)
    except ValueError as error:
        raise StatusError(400) from error
    value = int.from_bytes(data, "big")
    if len(data) != curve.size or value >= curve.prime:
        raise StatusError(400)
    return value


def _may_derive(jwk: Mapping[str, Any]) -> bool:
    """Whether jose's rule for `deriveKey` lets this key pass: neither member, or `key_ops` names it."""
    if "key_ops" in jwk:
        operations = jwk["key_ops"]
        return isinstance(operations, list) and "deriveKey" in operations
    return "use" not in jwk
