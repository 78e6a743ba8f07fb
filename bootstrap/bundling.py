"""What goes into a bundle: names, sources and rules, put together in native memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unlatch.bootstrap import files, jose, prompt
from unlatch.errors import ConfigError, UsageError
from unlatch.memguard._native import BundleWriter, Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PublicKeyTypes

MAX_SECRET_BYTES = 64 * 1024
"""The native crate's bound for one secret."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One secret of a bundle to be."""

    name: str
    kind: Literal["key", "generated key", "token", "pin", "ticket-secret", "hardware-key"]
    source: str
    """A file for a key; an algorithm for a generated one; "", "@FILE" or "fd:N" for a token or PIN; the first hour
    since 1970 for a ticket secret; a certificate, request or public key in PEM for a key in hardware."""
    rules: Mapping[str, object] | None
    """The sealed `use`; None is unbound."""

    @property
    def label(self) -> str:
        """The kind as the bundle names it."""
        return "private-key" if self.kind in ("key", "generated key") else self.kind


@dataclass(frozen=True, slots=True)
class Batch:
    """A finished payload and what may be public about it."""

    payload: Secret = field(repr=False)
    recipient: dict[str, object]
    """Public half of the bundle key."""
    requests: Mapping[str, bytes]
    """Certificate requests (PEM) of the generated keys."""


def mix(ingredients: Iterable[Ingredient], *, sealers: Iterable[str] = ()) -> Batch:
    """Build a bundle.

    Raises:
        ConfigError: a file does not read, a key or token is none, or rules do not make sense.
    """
    writer = BundleWriter()
    requests: dict[str, bytes] = {}
    for one in ingredients:
        try:
            request = _add(writer, one)
        except ConfigError as error:
            raise type(error)(f"{one.name}: {error}", hint=error.hint) from error
        if request is not None:
            requests[one.name] = request
    recipient = jose.read_json(writer.recipient)
    assert isinstance(recipient, dict)
    return Batch(writer.finish(list(sealers)), recipient, requests)


def _add(writer: BundleWriter, one: Ingredient) -> bytes | None:
    rules = None if one.rules is None else jose.write_json(one.rules)
    match one.kind:
        case "key":
            writer.add_private_key(one.name, files.read_secret(Path(one.source), MAX_SECRET_BYTES), rules)
        case "token":
            writer.add_token(one.name, _typed(one), rules)
        case "pin":
            if rules is None:
                raise UsageError("a PIN needs its hardware", hint="name it with --hardware URI")
            writer.add_pin(one.name, _typed(one), rules)
        case "hardware-key":
            if rules is None:
                raise UsageError(
                    "a key in hardware needs names", hint="name its hosts with --names a.example"
                )
            writer.add_hardware_key(one.name, spki_sha256(Path(one.source)), rules)
        case "ticket-secret":
            writer.generate_ticket_secret(one.name, int(one.source))
        case "generated key":
            if rules is None:
                raise UsageError(
                    "a generated key needs names", hint="name its hosts with --names a.example,b.example"
                )
            return writer.generate_private_key(one.name, one.source, rules)
    return None


def spki_sha256(path: Path) -> bytes:
    """Name a key in hardware by its public half.

    Args:
        path: PEM of a certificate (the first one counts), a certificate request or a public key.

    Raises:
        ConfigError: it is none of these.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read: {error.strerror}, {path}") from error
    key: CertificatePublicKeyTypes | PublicKeyTypes
    try:
        if b"-----BEGIN CERTIFICATE-----" in data:
            key = x509.load_pem_x509_certificates(data)[0].public_key()
        elif b"CERTIFICATE REQUEST-----" in data:
            key = x509.load_pem_x509_csr(data).public_key()
        else:
            key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"no certificate, certificate request or public key in PEM: {path}",
            hint="unlatch hsm csr and unlatch tpm csr write a request",
        ) from error
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _typed(one: Ingredient) -> Secret:
    if one.source.startswith("@"):
        token = files.read_secret(Path(one.source[1:]), MAX_SECRET_BYTES)
    elif one.source.startswith("fd:"):
        try:
            token = Secret.read_fd(int(one.source[3:]), MAX_SECRET_BYTES)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read descriptor {one.source[3:]}") from error
    else:
        return prompt.ask(
            f"{one.kind} {one.name}: ",
            hint=f"give it with --{one.kind} {one.name}=@FILE or --{one.kind} {one.name}=fd:3",
        )
    token.strip_newline()
    return token
