"""Certificate requests for keys that cannot be handed to a library: written here, signed by the hardware.

Pure: what is to be signed comes out, a signature goes in. Sources: RFC 2986, RFC 5280 section 4.2.1.6, RFC 8410,
RFC 5758.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Sequence

from unlatch.errors import ConfigError
from unlatch.memguard.custodian import der
from unlatch.memguard.custodian.handshake import Algorithm, Method

_NAME = re.compile(
    r"(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?"
)
MAX_NAME = 253
MAX_COMMON_NAME = 64
"""RFC 5280 appendix A."""
_COMMON_NAME = bytes.fromhex("550403")
_EXTENSION_REQUEST = bytes.fromhex("2a864886f70d01090e")
_SUBJECT_ALT_NAME = bytes.fromhex("551d11")
_NULL = b"\x05\x00"
_SIGNATURES: dict[Algorithm, tuple[bytes, bytes]] = {
    "rsa": (bytes.fromhex("2a864886f70d01010b"), _NULL),
    "ecdsa-p256": (bytes.fromhex("2a8648ce3d040302"), b""),
    "ecdsa-p384": (bytes.fromhex("2a8648ce3d040303"), b""),
    "ecdsa-p521": (bytes.fromhex("2a8648ce3d040304"), b""),
    "ed25519": (bytes.fromhex("2b6570"), b""),
}
"""AlgorithmIdentifiers; RSA's has a NULL."""


def signing_method(algorithm: Algorithm) -> Method:
    """Say how a request is signed with a kind of key."""
    hashes = {"rsa": "sha256", "ecdsa-p256": "sha256", "ecdsa-p384": "sha384", "ecdsa-p521": "sha512"}
    return Method(algorithm, hashes.get(algorithm), "pkcs1" if algorithm == "rsa" else None)


def to_be_signed(spki: bytes, names: Sequence[str]) -> bytes:
    """Write a request for some hosts: all as subject alternative names, the first also as common name.

    Raises:
        ConfigError: no name, or one that is neither a DNS name nor an address.
    """
    if not names:
        raise ConfigError("a certificate request needs names", hint="--names a.example,b.example")
    general = der.element(der.SEQUENCE, *map(_general_name, names))
    extension = der.element(
        der.SEQUENCE,
        der.element(der.OBJECT_IDENTIFIER, _SUBJECT_ALT_NAME),
        der.element(der.OCTET_STRING, general),
    )
    attribute = der.element(
        der.SEQUENCE,
        der.element(der.OBJECT_IDENTIFIER, _EXTENSION_REQUEST),
        der.element(der.SET, der.element(der.SEQUENCE, extension)),
    )
    return der.element(
        der.SEQUENCE, der.unsigned(0), _subject(names[0]), spki, der.element(der.context(0), attribute)
    )


def signed(body: bytes, algorithm: Algorithm, signature: bytes) -> bytes:
    """Put a request and its signature together, in PEM."""
    identifier, parameters = _SIGNATURES[algorithm]
    whole = der.element(
        der.SEQUENCE,
        body,
        der.element(der.SEQUENCE, der.element(der.OBJECT_IDENTIFIER, identifier), parameters),
        der.element(der.BIT_STRING, b"\0", signature),
    )
    text = base64.encodebytes(whole).replace(b"\n", b"").decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(
        ["-----BEGIN CERTIFICATE REQUEST-----", *lines, "-----END CERTIFICATE REQUEST-----", ""]
    ).encode()


def _subject(name: str) -> bytes:
    if len(name) > MAX_COMMON_NAME:
        return der.element(der.SEQUENCE)
    common = der.element(
        der.SEQUENCE,
        der.element(der.OBJECT_IDENTIFIER, _COMMON_NAME),
        der.element(der.UTF8_STRING, name.encode()),
    )
    return der.element(der.SEQUENCE, der.element(der.SET, common))


def _general_name(name: str) -> bytes:
    try:
        return der.element(0x87, ipaddress.ip_address(name).packed)
    except ValueError:
        pass
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ConfigError(f"not a DNS name or address: {name!r}", hint="as in pay.example or *.pay.example")
    return der.element(0x82, name.encode("ascii"))
