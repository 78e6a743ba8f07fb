"""How a secret may stand in memory: the byte strings that give it away. Pure.

Not among them: shares, blinded values, Montgomery forms and tables that arithmetic makes for a moment, and anything
encrypted. Who finds none of these forms has not proved that there is none of those.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unlatch.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

PIECE = 16
"""Shortest run that counts: 128 bits do not stand somewhere by chance."""
MIN_SECRET = 8
"""Shorter secrets stand in memory by chance."""
MIN_DIFFERENT = 5
_LINE = 64
_URL = bytes.maketrans(b"+/", b"-_")
BIG, LITTLE = "number, big-endian", "number, little-endian"
WORDS, PYTHON = "number, 32-bit words", "number, 30-bit digits"
PLAIN, REVERSED, HEX, BASE64, DER, PEM = "as it is", "reversed", "hex", "base64", "DER", "PEM text"

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Form:
    """One byte string that gives a secret away.

    `part` is what it holds (`p`, `d`, `seed`, `token`, `key` for all of it), `kind` how it is written. Only what lies in
    `secret`, half-open ranges of `data`, counts: the rest is public or the same in every key.
    """

    part: str
    kind: str
    data: bytes
    secret: Ranges

    def __repr__(self) -> str:
        return f"<Form {self.part}, {self.kind}, {len(self.data)} bytes>"

    def secret_bytes(self, start: int, end: int) -> int:
        """How many bytes of a range are secret."""
        return sum(max(0, min(end, b) - max(start, a)) for a, b in self.secret)


def forms(secret: bytes, *, part: str = "token") -> list[Form]:
    """The forms of a byte string: as it is, reversed, hex, base64 in each phase.

    Raises:
        ConfigError: it is too short to be told from chance.
    """
    if len(secret) < MIN_SECRET:
        raise ConfigError(
            f"a secret of {len(secret)} bytes stands in memory by chance", hint=f"{MIN_SECRET} bytes or more"
        )
    if len(set(secret)) < MIN_DIFFERENT:
        raise ConfigError(
            f"a secret of {len(set(secret))} different bytes stands in memory by chance",
            hint=f"{MIN_DIFFERENT} different ones or more",
        )
    found = [Form(part, PLAIN, secret, ((0, len(secret)),)), _whole(part, REVERSED, secret[::-1])]
    return [*found, *_texts(part, secret, ((0, len(secret)),))]


def private_key_forms(data: bytes) -> list[Form]:
    """The forms of every secret number of a private key, and of its files.

    Args:
        data: PEM (PKCS#8, PKCS#1, SEC1, OpenSSH) or DER, without a passphrase.

    Raises:
        ConfigError: not such a key.
    """
    return key_forms(load_private_key(data))


def key_forms(key: PrivateKeyTypes) -> list[Form]:
    """The forms of a loaded private key; see `private_key_forms`."""
    numbers = dict(_numbers(key))
    encodings = [(der, label, _where(der, numbers.values())) for der, label in _encodings(key)]
    # Of two forms that explain the same bytes the first gives them their name.
    found = [_pem(der, label, secret) for der, label, secret in encodings]
    for part, number in numbers.items():
        found += _number_forms(part, number)
        found += _texts(part, number, ((0, len(number)),))
    for der, _, secret in encodings:
        found += _texts("key", der, secret, hexadecimal=False)
        found.append(Form("key", DER, der, secret))
    return _distinct(found)


def load_private_key(data: bytes) -> PrivateKeyTypes:
    """Read a private key without a passphrase.

    Raises:
        ConfigError: none, encrypted, or of a kind without a secret number that we know.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    key: PrivateKeyTypes
    try:
        if b"BEGIN OPENSSH PRIVATE KEY" in data:
            key = serialization.load_ssh_private_key(data, password=None)
        elif b"-----BEGIN" in data:
            key = serialization.load_pem_private_key(data, password=None)
        else:
            key = serialization.load_der_private_key(data, password=None)
    except TypeError as error:
        raise ConfigError(
            "the private key is encrypted",
            hint="decrypt a copy in memory: openssl pkey -in FILE -out /dev/shm/key.pem",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError("not a private key in PEM or DER") from error
    return key


def public_mark(key: PrivateKeyTypes) -> bytes:
    """What every copy of the certificate holds: 16 bytes or more of the public key."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        return public.public_numbers().n.to_bytes((public.key_size + 7) // 8, "big")
    if isinstance(public, ec.EllipticCurvePublicKey):
        return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def decoy_of(key: PrivateKeyTypes) -> PrivateKeyTypes:
    """A fresh key of the same kind, which is no secret: what a control plants."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x448, x25519

    if isinstance(key, rsa.RSAPrivateKey):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return ec.generate_private_key(key.curve)
    for kind in (
        ed25519.Ed25519PrivateKey,
        ed448.Ed448PrivateKey,
        x25519.X25519PrivateKey,
        x448.X448PrivateKey,
    ):
        if isinstance(key, kind):
            made: PrivateKeyTypes = kind.generate()
            return made
    raise _unknown_kind()


def _numbers(key: PrivateKeyTypes) -> Iterator[tuple[str, bytes]]:
    """Each secret number, big-endian, by its usual name."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x448, x25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    if isinstance(key, rsa.RSAPrivateKey):
        secret = key.private_numbers()
        for part, value in (
            ("d", secret.d), ("p", secret.p), ("q", secret.q), ("dp", secret.dmp1), ("dq", secret.dmq1), ("qi", secret.iqmp)
        ):  # fmt: skip
            yield part, value.to_bytes((value.bit_length() + 7) // 8, "big")
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        yield "d", key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
    elif isinstance(
        key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey | x25519.X25519PrivateKey | x448.X448PrivateKey
    ):
        seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        yield "seed", seed
        if isinstance(key, ed25519.Ed25519PrivateKey):
            expanded = bytearray(hashlib.sha512(seed).digest())
            expanded[0] &= 248
            expanded[31] = expanded[31] & 63 | 64
            # Little-endian by RFC 8032; turned, so that every number here is big-endian.
            yield "scalar", bytes(expanded[31::-1])
            yield "prefix", bytes(expanded[32:])
    else:
        raise _unknown_kind()


def _unknown_kind() -> ConfigError:
    return ConfigError(
        "a private key of a kind that is not known here", hint="RSA, EC, Ed25519, Ed448, X25519, X448"
    )


def _number_forms(part: str, number: bytes) -> list[Form]:
    turned = number[::-1]
    padded = number.rjust(-(-len(number) // 4) * 4, b"\0")
    words = b"".join(padded[at : at + 4][::-1] for at in range(0, len(padded), 4))
    value, digits = int.from_bytes(number, "big"), bytearray()
    while value:
        digits += (value & 0x3FFFFFFF).to_bytes(4, "little")
        value >>= 30
    pairs = ((BIG, number), (LITTLE, turned), (WORDS, words), (PYTHON, bytes(digits)))
    return [_whole(part, kind, data) for kind, data in pairs]


def _encodings(key: PrivateKeyTypes) -> Iterator[tuple[bytes, str]]:
    """DER with the label of its PEM, in each format that fits."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    yield key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), "PRIVATE KEY"
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        label = "RSA PRIVATE KEY" if isinstance(key, rsa.RSAPrivateKey) else "EC PRIVATE KEY"
        yield key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()), label


def _where(der: bytes, numbers: Iterable[bytes]) -> Ranges:
    places = ((der.find(number), len(number)) for number in numbers)
    return tuple(sorted((start, start + size) for start, size in places if start >= 0))


def _texts(part: str, data: bytes, secret: Ranges, *, hexadecimal: bool = True) -> Iterator[Form]:
    if hexadecimal:
        doubled = tuple((2 * a, 2 * b) for a, b in secret)
        yield Form(part, HEX, data.hex().encode(), doubled)
        yield Form(part, HEX, data.hex().upper().encode(), doubled)
    for phase in range(3):
        text, ranges = _base64(data, secret, phase)
        yield Form(part, BASE64, text, ranges)
        if (other := text.translate(_URL)) != text:
            yield Form(part, BASE64, other, ranges)


def _base64(data: bytes, secret: Ranges, phase: int) -> tuple[bytes, Ranges]:
    """The characters that `data` alone decides, `phase` bytes into a base64 text, and which of them are secret."""
    text = base64.b64encode(bytes(phase) + data + bytes(2))
    first, last = -(-8 * phase // 6), 8 * (phase + len(data)) // 6
    # Character c holds bits 6c to 6c + 6; byte b stands at bits 8(b + phase).
    ranges = tuple((-(-8 * (a + phase) // 6) - first, 8 * (b + phase) // 6 - first) for a, b in secret)
    return text[first:last], ranges


def _pem(der: bytes, label: str, secret: Ranges) -> Form:
    text, ranges = _base64(der, secret, 0)
    text = base64.b64encode(der)
    head = f"-----BEGIN {label}-----\n".encode()
    lines = b"\n".join(text[at : at + _LINE] for at in range(0, len(text), _LINE))

    def moved(at: int) -> int:
        return len(head) + at + at // _LINE

    placed = tuple((moved(a), moved(b - 1) + 1) for a, b in ranges)
    return Form("key", PEM, head + lines + f"\n-----END {label}-----\n".encode(), placed)


def _whole(part: str, kind: str, data: bytes) -> Form:
    return Form(part, kind, data, ((0, len(data)),))


def _distinct(found: list[Form]) -> list[Form]:
    """Drop what says the same twice: the first keeps its name."""
    return list({form.data: form for form in reversed(found)}.values())[::-1]
