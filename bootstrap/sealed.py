"""Sealed files: a compact JWE that `clevis decrypt` opens, read strictly.

Rule 1: what is read here decides only whom to ask. The header is authenticated when the payload opens, not before.
Rule 2: the format is that of the native crate (ECDH-ES or dir, A256GCM or A128GCM, no zip, no crit, 1 MiB).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from unlatch.bootstrap import jose
from unlatch.bootstrap.pins import pkcs11_header, tpm2_header, tree
from unlatch.bootstrap.pins.tree import BrokenPin, Child, Pin, SssPin, TangPin, UnknownPin
from unlatch.errors import DamagedFileError

MAX_BYTES = 1 << 20
"""Larger files are data, not secrets (the same bound as in the native crate)."""
MAX_DEPTH = 8
"""Sharings inside sharings; every level costs base64's 4/3, so real files have two or three."""
BUNDLE_TYPE = "application/unlatch+json"
NOT_ONE = "the file is cut short, altered, or no sealed file: fetch it again from where it was sealed"


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A parsed sealed file."""

    compact: bytes
    """The JWE without white space around it."""
    header_json: bytes
    """The protected header as it stands in the file."""
    header: Mapping[str, object] = field(repr=False)
    pin: Pin

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a sealed file.

        Args:
            data: the file; white space around the JWE is ignored.

        Raises:
            DamagedFileError: it breaks the format, or its pin's members are wrong.
        """
        return cls(*_read(data, depth=0))

    @property
    def digest(self) -> str:
        """SHA-256 of the JWE without white space around it, base64url: names the file on cards and in logs."""
        return jose.encode(hashlib.sha256(self.compact).digest())

    @property
    def is_bundle(self) -> bool:
        """Whether the payload is a bundle; otherwise it is one secret's raw bytes."""
        return self.header.get("cty") == BUNDLE_TYPE

    @property
    def labels(self) -> Mapping[str, object]:
        """Give the header's `unlatch` object (workload, created, trust, recipient, …), empty in clevis's own files."""
        extra = self.header.get("unlatch")
        return extra if isinstance(extra, dict) else {}

    @property
    def workload(self) -> str | None:
        """The name at the gate: as sealed, else from the first gate's address."""
        name = self.labels.get("workload")
        if isinstance(name, str):
            return name
        tangs = (pin for pin in tree.leaves(self.pin) if isinstance(pin, TangPin))
        return next((pin.workload for pin in tangs if pin.workload), None)


def _read(data: bytes, *, depth: int) -> tuple[bytes, bytes, Mapping[str, object], Pin]:
    compact = data.strip(b" \t\r\n\x0b\x0c")
    if len(compact) > MAX_BYTES:
        raise DamagedFileError(
            f"more than {MAX_BYTES} bytes", hint="a sealed file holds keys and tokens, not data"
        )
    header_json = _protected_header(compact)
    header = _header(header_json)
    return compact, header_json, header, _pin(header, depth=depth)


def _protected_header(compact: bytes) -> bytes:
    try:
        text = compact.decode("ascii")
    except UnicodeDecodeError as error:
        raise DamagedFileError("not a compact JWE: bytes outside ASCII", hint=NOT_ONE) from error
    protected, encrypted_key, iv, ciphertext, tag = jose.split_compact(text)
    fields = {"protected header": protected, "iv": iv, "ciphertext": ciphertext, "tag": tag}
    decoded = {name: _decode(name, value) for name, value in fields.items()}
    for name, size in (("iv", 12), ("tag", 16)):
        if len(decoded[name]) != size:
            raise DamagedFileError(f"{name} has {len(decoded[name])} bytes, expected {size}", hint=NOT_ONE)
    if encrypted_key:
        raise DamagedFileError("JWE has an encrypted_key, which sealed files do not use", hint=FORMAT)
    return decoded["protected header"]


def _decode(name: str, value: str) -> bytes:
    try:
        return jose.decode(value)
    except ValueError as error:
        raise DamagedFileError(f"{name} is {error}", hint=NOT_ONE) from error


FORMAT = (
    "sealed files use alg dir or ECDH-ES and enc A256GCM or A128GCM, no zip, no crit: seal the secret again"
)


def _header(data: bytes) -> dict[str, object]:
    try:
        header = jose.read_json(data)
    except ValueError as error:
        raise DamagedFileError(f"protected header: {_reason(error)}", hint=NOT_ONE) from error
    if not isinstance(header, dict):
        raise DamagedFileError("protected header is no JSON object", hint=NOT_ONE)
    for name in ("zip", "crit"):
        if name in header:
            raise DamagedFileError(f"header has {name}, which sealed files do not use", hint=FORMAT)
    for name, known in (("alg", ("dir", "ECDH-ES")), ("enc", ("A256GCM", "A128GCM"))):
        if header.get(name) not in known:
            raise DamagedFileError(f"header's {name} is not one of {', '.join(known)}", hint=FORMAT)
    return header


def _pin(header: Mapping[str, object], *, depth: int) -> Pin:
    name = tree.pin_name(header)
    match name:
        case "tang":
            return tree.parse_tang(header)
        case "sss":
            if depth == MAX_DEPTH:
                raise DamagedFileError(f"sss: more than {MAX_DEPTH} sharings inside each other", hint=NOT_ONE)
            threshold, prime, children = tree.parse_sss_frame(header)
            return SssPin(threshold, prime, tuple(_child(child, depth=depth + 1) for child in children))
        case "tpm2":
            return tpm2_header.parse_tpm2(header)
        case tpm2_header.SIGNED_PIN:
            return tpm2_header.parse_signed(header)
        case "pkcs11":
            return pkcs11_header.parse_clevis(header)
        case pkcs11_header.OAEP_PIN:
            return pkcs11_header.parse_oaep(header)
        case "null":
            return tree.parse_null(header)
        case tree.RECOVERY_PIN:
            return tree.parse_recovery(header)
        case _:
            return UnknownPin(name)


def _child(value: object, *, depth: int) -> Child:
    """Read one share; a broken one keeps its place, for the others may suffice."""
    if not isinstance(value, str):
        raise DamagedFileError("sss: a share is no string", hint=tree.ALTERED)
    data = value.encode()
    try:
        compact, header_json, _, pin = _read(data, depth=depth)
    except DamagedFileError as error:
        return Child(data, b"", BrokenPin(str(error)))
    return Child(compact, header_json, pin)


def _reason(error: ValueError) -> str:
    """Give a parser's complaint without the text it complains about."""
    return "not JSON" if hasattr(error, "doc") or isinstance(error, UnicodeDecodeError) else str(error)
