"""Files that name a key in hardware instead of holding one.

`PKCS#11 PROVIDER URI` (pkcs11-provider, opencryptoki), `TSS2 PRIVATE KEY` (tpm2-openssl, tpm2-tss-engine), a bare
`pkcs11:…` line, and HAProxy's two lines `engine = …`, `private_key = …`. The object may stand anywhere in a PEM file,
beside certificates. Pure. Sources: src/pk11_uri.h of pkcs11-provider; draft-bottomley-tpm2-keys.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from unlatch.errors import ConfigError
from unlatch.memguard.custodian import der
from unlatch.memguard.custodian.uri import TokenUri

DESCRIPTION = b"PKCS#11 Provider URI v1.0"
LOADABLE_KEY = bytes([0x67, 0x81, 0x05, 0x0A, 0x01, 0x03])
"""2.23.133.10.1.3, id-loadablekey."""
URI_LABEL, TPM_LABEL = "PKCS#11 PROVIDER URI", "TSS2 PRIVATE KEY"
MAX_FILE_BYTES = 256 * 1024
_PEM = re.compile(rb"-----BEGIN (PKCS#11 PROVIDER URI|TSS2 PRIVATE KEY)-----\s([^-]*)-----END \1-----")
_ENGINE = re.compile(rb"^[ \t]*engine[ \t]*=[ \t]*(\S+)[ \t]*$", re.MULTILINE)
_ENGINE_KEY = re.compile(rb"^[ \t]*private_key[ \t]*=[ \t]*(\S.*?)[ \t\r]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key in a PKCS#11 token."""

    uri: TokenUri
    advice: str | None = None
    """What to say about the file's form."""


@dataclass(frozen=True, slots=True)
class TpmKey:
    """A key that one TPM wrapped."""

    parent: int
    """TPM_RH_OWNER for the storage primary, or a persistent handle."""
    public: bytes
    """TPM2B_PUBLIC."""
    private: bytes
    """TPM2B_PRIVATE."""
    needs_password: bool = False


HardwareKey = TokenKey | TpmKey


def find(data: bytes) -> HardwareKey | None:
    """Find the one key that a file names; None when it names none.

    Raises:
        ConfigError: it names several, or one that does not parse.
    """
    found: list[HardwareKey] = [
        parse_der(label.decode(), _decoded(body)) for label, body in _PEM.findall(data[:MAX_FILE_BYTES])
    ]
    engine = _ENGINE.search(data)
    if engine is not None:
        found.append(_engine_key(engine.group(1), data))
    elif data.strip().startswith(b"pkcs11:"):
        found.append(TokenKey(TokenUri.parse(_text(data.strip()))))
    if len(found) > 1:
        raise ConfigError("the file names more than one key in hardware", hint="one file, one key")
    return found[0] if found else None


def parse_der(label: str, data: bytes) -> HardwareKey:
    """Read the inside of a PEM object.

    Raises:
        ConfigError: it is not what the label says.
    """
    try:
        outer = der.Reader(data)
        inner = der.Reader(outer.take(der.SEQUENCE))
        key = _token_key(inner) if label == URI_LABEL else _tpm_key(inner)
        if not outer.is_empty:
            raise ValueError("bytes after its end")
    except ValueError as error:
        raise ConfigError(f"{label}: {error}", hint="the file is cut short or altered") from error
    return key


def write_uri(uri: TokenUri) -> bytes:
    """Write a URI as PEM, for pkcs11-provider, HAProxy and nginx. A PIN in it is left out."""
    text = uri.public_text.encode()
    body = der.element(
        der.SEQUENCE, der.element(der.VISIBLE_STRING, DESCRIPTION), der.element(der.UTF8_STRING, text)
    )
    return _pem(URI_LABEL, body)


def write_tpm(key: TpmKey) -> bytes:
    """Write a TPM's key as PEM, for tpm2-openssl and everything that uses it."""
    empty = [] if key.needs_password else [der.element(der.context(0), der.element(der.BOOLEAN, b"\xff"))]
    body = der.element(
        der.SEQUENCE,
        der.element(der.OBJECT_IDENTIFIER, LOADABLE_KEY),
        *empty,
        der.unsigned(key.parent),
        der.element(der.OCTET_STRING, key.public),
        der.element(der.OCTET_STRING, key.private),
    )
    return _pem(TPM_LABEL, body)


def _token_key(reader: der.Reader) -> TokenKey:
    if reader.take(der.VISIBLE_STRING) != DESCRIPTION:
        raise ValueError("not version 1.0")
    text = reader.take(der.UTF8_STRING)
    if not reader.is_empty:
        raise ValueError("unknown fields")
    return TokenKey(TokenUri.parse(_text(text)))


def _tpm_key(reader: der.Reader) -> TpmKey:
    if reader.take(der.OBJECT_IDENTIFIER) != LOADABLE_KEY:
        raise ValueError("not a loadable key: importable and sealed ones are not used here")
    empty = reader.maybe(der.context(0))
    needs_password = empty is None or der.Reader(empty).take(der.BOOLEAN) == b"\0"
    for number, what in ((1, "a policy"), (2, "a secret"), (3, "an auth policy")):
        if reader.maybe(der.context(number)) is not None:
            raise ValueError(f"it has {what}, which is not supported")
    reader.maybe(der.context(4))  # a description
    parent = der.as_unsigned(reader.take(der.INTEGER))
    public, private = reader.take(der.OCTET_STRING), reader.take(der.OCTET_STRING)
    if not reader.is_empty or parent >= 1 << 32:
        raise ValueError("unknown fields")
    return TpmKey(parent, public, private, needs_password)


def _engine_key(engine: bytes, data: bytes) -> TokenKey:
    key = _ENGINE_KEY.search(data)
    if key is None:
        raise ConfigError("engine = … without private_key = …")
    if engine != b"pkcs11":
        raise ConfigError(f"engine {engine.decode('ascii', 'replace')!r} is not pkcs11")
    return TokenKey(
        TokenUri.parse(_text(key.group(1))), advice="write it as PEM for other programs: unlatch hsm pem URI"
    )


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError("PKCS#11 URI: not UTF-8") from error


def _decoded(body: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise ConfigError("PEM is not base64", hint="the file is cut short or altered") from error


def _pem(label: str, body: bytes) -> bytes:
    text = base64.b64encode(body).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()
