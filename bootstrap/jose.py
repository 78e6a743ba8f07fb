"""Base64url, JSON and JWKs as JOSE and Tang write them: strict when read, sorted and compact when written.

Everything here is public data: header, advertisement, thumbprint. Private members are taken out where keys enter.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import NoReturn, TypeAlias

from unlatch.errors import DamagedFileError

Jwk: TypeAlias = Mapping[str, object]

PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
"""RFC 7518 section 6: what makes a JWK private (`k` makes it symmetric)."""

THUMBPRINT_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n"), "oct": ("k", "kty")}
"""RFC 7638 section 3.2, in lexical order."""


def decode(text: str) -> bytes:
    """Undo base64url without padding, canonical only.

    Raises:
        ValueError: another alphabet, padding, white space, or stray bits at the end.
    """
    try:
        data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("not base64url") from error
    # Python's decoder drops characters outside the alphabet and stray bits; one byte string has one spelling here.
    if encode(data) != text:
        raise ValueError("not canonical base64url")
    return data


def encode(data: bytes) -> str:
    """Write base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def read_json(data: bytes | str) -> object:
    """Parse JSON; no member twice, no NaN, no half of a surrogate pair.

    Raises:
        ValueError: not JSON, a member twice, or nested too deeply.
    """
    try:
        value: object = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
        write_json(value)  # what cannot be written back (lone surrogates) is no text
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    return value


def write_json(value: object) -> bytes:
    """Write JSON as jose does: sorted, compact, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def thumbprint(jwk: Jwk, *, algorithm: str = "sha256") -> str:
    """RFC 7638 thumbprint, base64url.

    Raises:
        ValueError: a required member is missing or no string.
    """
    names = THUMBPRINT_MEMBERS.get(str(jwk.get("kty")), ())
    members = {name: jwk.get(name) for name in names}
    if not members or not all(isinstance(value, str) for value in members.values()):
        raise ValueError("JWK without the members of a thumbprint")
    return encode(hashlib.new(algorithm, write_json(members)).digest())


def is_thumbprint_of(text: str, jwk: Jwk) -> bool:
    """Answer whether `text` is the SHA-256 or (legacy) SHA-1 thumbprint of a key, as clevis accepts them."""
    try:
        return text in (thumbprint(jwk), thumbprint(jwk, algorithm="sha1"))
    except ValueError:
        return False


def find_by_thumbprint(text: str, keys: Iterable[Jwk]) -> Jwk | None:
    """Give the first key with this SHA-256 or SHA-1 thumbprint."""
    return next((key for key in keys if is_thumbprint_of(text, key)), None)


def may(jwk: Jwk, operation: str, *, explicit: bool = False) -> bool:
    """Answer whether `key_ops` and `use` allow an operation, by jose's rules.

    A key that names neither may do everything, unless `explicit` asks for a name. `use` "sig" means sign and
    verify; "enc" never means deriveKey.
    """
    operations, use = jwk.get("key_ops"), jwk.get("use")
    if operations is None and use is None:
        return not explicit
    if isinstance(operations, list) and operation in operations:
        return True
    return use == "sig" and operation in ("sign", "verify")


def public_part(jwk: Jwk) -> dict[str, object]:
    """Drop every private member."""
    return {name: value for name, value in jwk.items() if name not in PRIVATE_MEMBERS}


def is_private(jwk: Jwk) -> bool:
    """Answer whether a JWK holds private or symmetric key material."""
    return not PRIVATE_MEMBERS.isdisjoint(jwk)


def split_compact(compact: str) -> tuple[str, str, str, str, str]:
    """Split a compact JWE into its five fields.

    Raises:
        DamagedFileError: another number of fields.
    """
    fields = compact.split(".")
    if len(fields) != 5:
        raise DamagedFileError(
            f"not a compact JWE: {len(fields)} fields separated by dots, expected 5",
            hint="the file is cut short or no sealed file: fetch it again from where it was sealed",
        )
    return fields[0], fields[1], fields[2], fields[3], fields[4]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("JSON object names a member twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
