"""Locked memory, JWE, ECMR and bundles in Rust: no secret becomes a Python object.

All functions raise the errors of `unlatch.errors`: `DamagedFileError` for sealed bytes that do not open or
parse, `UntrustedGateError` for a peer's point or answer that is wrong, `ConfigError` for what a person passed in
and for memory that may not be locked. Descriptors raise `OSError`.
"""

from contextlib import AbstractContextManager
from typing import final

from typing_extensions import Buffer

__all__ = [
    "Bundle",
    "BundleWriter",
    "Exchange",
    "Secret",
    "content_key_from_jwk",
    "content_key_to_jwk",
    "derive_content_key",
    "exchange_answer",
    "exchange_key_generate",
    "jwe_open",
    "jwe_seal",
    "jwe_seal_to",
    "jwe_verify",
    "signing_key_generate",
    "signing_key_sign",
    "sss_combine",
    "sss_split",
]

@final
class Secret:
    """Bytes in locked pages, left out of core dumps, wiped when dropped. No repr, no copy, no pickle."""

    @staticmethod
    def random(size: int, /) -> Secret: ...
    @staticmethod
    def copy_from(data: Buffer, /) -> Secret:
        """Copy bytes in. The caller's own copy stays where it is: for tests and public data only."""
    @staticmethod
    def read_fd(fd: int, limit: int, /) -> Secret:
        """Read to the end of file straight into locked pages; more than `limit` bytes is a ConfigError."""
    @staticmethod
    def read_line_fd(fd: int, limit: int, /) -> Secret:
        """Read one line straight into locked pages, without its newline: a prompt's answer."""
    def write_fd(self, fd: int, /) -> None:
        """Write every byte to a descriptor."""
    def strip_newline(self) -> None:
        """Drop one trailing newline (LF or CRLF), as a prompt or an editor leaves it."""
    def expose(self) -> AbstractContextManager[memoryview]:
        """A read-only view, released (and unusable) when the block ends. Slices of it live on: do not keep any."""
    def wipe(self) -> None:
        """Wipe now; every later use is a ConfigError. Refused while a block exposes the secret."""
    def __len__(self) -> int: ...

def jwe_open(compact: bytes, key: Secret, /) -> Secret:
    """Open a compact JWE with its content key; nothing is returned before the tag is verified."""

def jwe_verify(compact: bytes, key: Secret, /) -> None:
    """Refuse a content key that does not open a compact JWE (DamagedFileError). Nothing is decrypted."""

def jwe_seal(header: bytes, plaintext: Secret, key: Secret, /) -> bytes:
    """Seal with a 32-byte content key. `header` is JSON; alg "dir" and enc "A256GCM" are added. Written sorted and compact."""

def jwe_seal_to(header: bytes, plaintext: Secret, recipient: bytes, /) -> bytes:
    """Seal to an EC public JWK by ECDH-ES with a fresh ephemeral; adds `alg`, `enc` and `epk` to the header."""

def content_key_from_jwk(jwk: Secret, /) -> Secret:
    """The content key of a symmetric JWK, as a TPM or token gives it back."""

def content_key_to_jwk(key: Secret, /) -> Secret:
    """A 32-byte content key as the symmetric JWK that clevis wraps: 111 bytes, no newline."""

@final
class Exchange:
    """One blinded recovery (client side of McCallum-Relyea). The blinding scalar never leaves native memory."""

    def __new__(cls, header: bytes, server_key: bytes, /) -> Exchange:
        """From a protected header's JSON (`epk`, `enc`, `apu`, `apv`) and the server's exchange key (public JWK)."""
    @property
    def request(self) -> bytes:
        """The JWK to POST: compact, sorted, one trailing newline, as clevis sends it."""
    @property
    def thumbprint(self) -> str:
        """RFC 7638 SHA-256 of the requested point, base64url."""
    def finish(self, answer: bytes, /) -> Secret:
        """Unblind the server's JWK; gives the content key."""

def derive_content_key(header: bytes, private_key: Secret, /) -> Secret:
    """Offline recovery: the content key from a header and the private exchange JWK."""

def exchange_key_generate(curve: str, /) -> tuple[Secret, bytes]:
    """A new ECMR key ("P-256", "P-384", "P-521"): private JWK, public JWK (both JSON as tangd writes them)."""

def exchange_answer(private_key: Secret, point: bytes, /) -> bytes:
    """Tang's server side: multiply a client's point (JWK JSON) and give the answer's JWK JSON."""

def signing_key_generate(curve: str, /) -> tuple[Secret, bytes]:
    """A new ES256/ES384/ES512 key: private JWK, public JWK."""

def signing_key_sign(private_key: Secret, message: bytes, /) -> bytes:
    """JWS signature: raw r || s of full length."""

def sss_split(threshold: int, count: int, /) -> tuple[bytes, Secret, list[Secret]]:
    """A fresh prime (32 bytes), the content key at 0, and `count` shares x || y of 64 bytes."""

def sss_combine(prime: bytes, shares: list[Secret], /) -> Secret:
    """The content key from exactly the shares given."""

@final
class BundleWriter:
    """Builds a bundle's JSON in locked memory. `rules` is the sealed `use`, a JSON object, or None for unbound."""

    def __new__(cls) -> BundleWriter: ...
    @property
    def recipient(self) -> bytes:
        """Public half (JWK JSON) of the bundle key."""
    def add_private_key(self, name: str, pem: Secret, rules: bytes | None, /) -> None:
        """PEM in PKCS#8, SEC1 or PKCS#1; kept as PKCS#8."""
    def generate_private_key(self, name: str, algorithm: str, rules: bytes, /) -> bytes:
        """Make "ecdsa-p256", "ed25519" or "rsa-2048"/"rsa-3072"/"rsa-4096"; gives a CSR (PEM) for the rules' `names`."""
    def add_token(self, name: str, value: Secret, rules: bytes | None, /) -> None:
        """Text without control characters, at most 64 KiB."""
    def generate_ticket_secret(self, name: str, epoch: int, /) -> None:
        """Make a chain of session ticket keys that begins at this hour since 1970. Its one rule: every node its own keys."""
    def add_hardware_key(self, name: str, spki_sha256: bytes, rules: bytes, /) -> None:
        """The rules of a key in hardware, named by SHA-256 of its SubjectPublicKeyInfo."""
    def add_pin(self, name: str, value: Secret, rules: bytes, /) -> None:
        """The PIN of a token (hardware), 1 to 255 bytes of text; the rules name the `hardware`."""
    def finish(self, sealers: list[str], /) -> Secret:
        """The payload; the writer is empty afterwards."""

@final
class Bundle:
    """An opened bundle (header `cty` "application/unlatch+json")."""

    def __new__(cls, plaintext: Secret, /) -> Bundle: ...
    def describe(self) -> bytes:
        """JSON of everything but the secrets: set, sealers, and per secret name, kind, algorithm, use, unbound."""
    def secret(self, name: str, /) -> Secret:
        """A private key as PEM, a token as its bytes. ConfigError when there is none of this name."""
