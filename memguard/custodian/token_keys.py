"""Keys in a token: found by their URI, with their public halves.

Public halves come from the private object where the module tells (RSA), else from the public key or certificate of the
same id or label: a key without either cannot be matched with a certificate, and is refused.
"""

from __future__ import annotations

from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import load_der_x509_certificate

from unlatch.errors import ConfigError
from unlatch.memguard.custodian import der
from unlatch.memguard.custodian.cryptoki import told
from unlatch.memguard.custodian.signatures import PublicKey
from unlatch.memguard.custodian.uri import TokenUri

CURVES: dict[bytes, ec.EllipticCurve] = {
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
    bytes.fromhex("06052b81040023"): ec.SECP521R1(),
}
"""By CKA_EC_PARAMS."""
EDWARDS_25519 = (b"\x13\x0cedwards25519", bytes.fromhex("06032b6570"))
"""PrintableString of PKCS#11 v3.0, or the OID of RFC 8410."""


class NoSuchKeyError(ConfigError):
    """The token has no key, or several, for a URI."""


def private_key(session: Any, uri: TokenUri) -> Any:
    """Find the private key that a URI names.

    Raises:
        NoSuchKeyError: the token shows none, or several.
        UnlatchError: as the token says.
    """
    found = objects(session, uri, "private")
    if not found:
        seen = (
            "log in first: private keys show themselves after the PIN"
            if not _logged_in(session)
            else "unlatch hsm list shows them"
        )
        raise NoSuchKeyError(
            f"token {session.token.label} has no private key for {uri.public_text}", hint=seen
        )
    if len(found) > 1:
        raise NoSuchKeyError(
            f"token {session.token.label} has {len(found)} private keys for {uri.public_text}",
            hint="add object= or id=",
        )
    return found[0]


def objects(session: Any, uri: TokenUri, kind: str) -> list[Any]:
    """Give the objects of a kind ("private", "public", "cert") that a URI fits."""
    from pkcs11 import Attribute, ObjectClass

    classes = {
        "private": ObjectClass.PRIVATE_KEY,
        "public": ObjectClass.PUBLIC_KEY,
        "cert": ObjectClass.CERTIFICATE,
    }
    wanted: dict[Any, Any] = {Attribute.CLASS: classes[kind]}
    if uri.object is not None:
        wanted[Attribute.LABEL] = uri.object
    if uri.id is not None:
        wanted[Attribute.ID] = uri.id
    with told():
        return list(session.get_objects(wanted))


def public_half(session: Any, key: Any) -> PublicKey:
    """Give the public half of a private key.

    Raises:
        NoSuchKeyError: the token does not tell it, or it is of a kind that TLS does not use.
    """
    from pkcs11 import Attribute, KeyType

    kind = key.key_type
    if kind == KeyType.RSA:
        modulus, exponent = attribute(key, Attribute.MODULUS), attribute(key, Attribute.PUBLIC_EXPONENT)
        if modulus and exponent:
            numbers = (int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
            return rsa.RSAPublicNumbers(*numbers).public_key()
    for companion in _companions(session, key):
        public = _read(companion)
        if public is not None:
            return public
    raise NoSuchKeyError(
        f"token {session.token.label} does not tell the public half of {label(key)!r}",
        hint="store its public key or certificate beside it, with the same id",
    )


def spki(key: PublicKey) -> bytes:
    """Give SubjectPublicKeyInfo in DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def label(key: Any) -> str:
    """Give an object's label."""
    from pkcs11 import Attribute

    found = attribute(key, Attribute.LABEL)
    return found if isinstance(found, str) else ""


def attribute(item: Any, name: Any) -> Any:
    """Give an attribute, or None where the object has none or keeps it to itself."""
    from pkcs11 import exceptions

    try:
        return item[name]
    except (
        exceptions.AttributeTypeInvalid,
        exceptions.AttributeSensitive,
        exceptions.FunctionFailed,
        KeyError,
        NotImplementedError,
    ):
        return None


def _companions(session: Any, key: Any) -> list[Any]:
    from pkcs11 import Attribute

    identity = attribute(key, Attribute.ID)
    same = TokenUri(id=identity) if identity else TokenUri(object=label(key))
    return [key, *objects(session, same, "public"), *objects(session, same, "cert")]


def _read(item: Any) -> PublicKey | None:
    from pkcs11 import Attribute, ObjectClass

    try:
        if item.object_class == ObjectClass.CERTIFICATE:
            key: Any = load_der_x509_certificate(bytes(item[Attribute.VALUE])).public_key()
            return key if isinstance(key, PublicKey) else None
        modulus = attribute(item, Attribute.MODULUS)
        exponent = attribute(item, Attribute.PUBLIC_EXPONENT)
        if modulus and exponent:
            return rsa.RSAPublicNumbers(
                int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")
            ).public_key()
        parameters, point = attribute(item, Attribute.EC_PARAMS), attribute(item, Attribute.EC_POINT)
        return _on_curve(bytes(parameters), bytes(point)) if parameters and point else None
    except (ValueError, UnsupportedAlgorithm):
        return None


def _on_curve(parameters: bytes, point: bytes) -> PublicKey | None:
    """Read CKA_EC_POINT: an OCTET STRING, or (as old modules write) the bare point."""
    try:
        reader = der.Reader(point)
        inner = reader.take(der.OCTET_STRING)
        point = inner if reader.is_empty else point
    except ValueError:
        pass
    if parameters in EDWARDS_25519:
        return ed25519.Ed25519PublicKey.from_public_bytes(point)
    curve = CURVES.get(parameters)
    return None if curve is None else ec.EllipticCurvePublicKey.from_encoded_point(curve, point)


def _logged_in(session: Any) -> bool:
    """Answer whether private objects can show themselves; sessions of this process share their login."""
    from pkcs11 import Attribute, ObjectClass

    with told():
        return any(True for _ in session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
