"""The forms of a secret hold the secret, and nothing public counts."""

from __future__ import annotations

import base64
import textwrap

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from unlatch.errors import ConfigError
from unlatch.memguard.scan import Index
from unlatch.memguard.secret_forms import Form, decoy_of, forms, key_forms, private_key_forms, public_mark

SECRET = bytes(range(40, 80))
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS: dict[str, PrivateKeyTypes] = {
    "rsa": RSA_KEY,
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "x25519": x25519.X25519PrivateKey.generate(),
}


def wholes(found: list[Form], data: bytes) -> set[tuple[str, str]]:
    """Part and kind of every form that stands whole in `data`."""
    runs = Index(found).runs(memoryview(data), 0)
    return {(run.form.part, run.form.kind) for run in runs if run.is_whole}


def dumped(key: PrivateKeyTypes, encoding: Encoding, kind: PrivateFormat) -> bytes:
    return key.private_bytes(encoding, kind, NoEncryption())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (SECRET, "as it is"),
        (SECRET[::-1], "reversed"),
        (SECRET.hex().encode(), "hex"),
        (SECRET.hex().upper().encode(), "hex"),
        *((base64.b64encode(b"x" * phase + SECRET + b"yz"), "base64") for phase in range(4)),
        (base64.urlsafe_b64encode(b"\xff\xfe" + SECRET), "base64"),
    ],
)
def test_text_of_a_token_is_met_wherever_it_begins(text: bytes, kind: str) -> None:
    assert ("token", kind) in wholes(forms(SECRET), b"before " + text + b" behind")


@pytest.mark.parametrize("name", ["rsa", "p256", "p521"])
@pytest.mark.parametrize("kind", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize(("encoding", "written"), [(Encoding.PEM, "PEM text"), (Encoding.DER, "DER")])
def test_file_of_a_key_is_one_find(name: str, kind: PrivateFormat, encoding: Encoding, written: str) -> None:
    data = b"x" * 13 + dumped(KEYS[name], encoding, kind) + b"y" * 30
    runs = Index(key_forms(KEYS[name])).runs(memoryview(data), 1000)

    assert [(run.form.part, run.form.kind, run.is_whole, run.start) for run in runs] == [
        ("key", written, True, 1013)
    ]


@pytest.mark.parametrize("name", list(KEYS))
def test_file_with_lines_of_another_length_is_found_in_parts(name: str) -> None:
    der = dumped(KEYS[name], Encoding.DER, PrivateFormat.PKCS8)
    data = "\r\n".join(textwrap.wrap(base64.b64encode(der).decode(), 76)).encode()

    assert Index(key_forms(KEYS[name])).runs(memoryview(data), 0)


@pytest.mark.parametrize("name", list(KEYS))
def test_public_half_is_no_find(name: str) -> None:
    public = KEYS[name].public_key()
    data = b"".join(
        public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        for encoding in (Encoding.PEM, Encoding.DER)
    )
    data += public_mark(KEYS[name]) + public_mark(KEYS[name])[::-1]

    assert Index(key_forms(KEYS[name])).runs(memoryview(data), 0) == []


@pytest.mark.parametrize("name", list(KEYS))
def test_another_key_of_the_kind_is_no_find(name: str) -> None:
    other = decoy_of(KEYS[name])
    data = b"".join(form.data for form in key_forms(other))

    assert type(other) is type(KEYS[name])
    assert Index(key_forms(KEYS[name])).runs(memoryview(data), 0) == []


def test_numbers_of_rsa_are_met_in_either_order_and_as_words() -> None:
    p = RSA_KEY.private_numbers().p
    big, found = p.to_bytes(128, "big"), key_forms(RSA_KEY)
    words = b"".join(big[at : at + 4][::-1] for at in range(0, 128, 4))
    digits = b"".join(((p >> shift) & 0x3FFFFFFF).to_bytes(4, "little") for shift in range(0, 1024, 30))
    texts = {"big-endian": big, "little-endian": big[::-1], "32-bit words": words, "30-bit digits": digits}

    assert {kind: wholes(found, text) for kind, text in texts.items()} == {
        kind: {("p", f"number, {kind}")} for kind in texts
    }


def test_scalar_of_ed25519_is_met_as_it_is_computed_with() -> None:
    from cryptography.hazmat.primitives import hashes

    key = KEYS["ed25519"]
    digest = hashes.Hash(hashes.SHA512())
    digest.update(dumped(key, Encoding.Raw, PrivateFormat.Raw))
    expanded = bytearray(digest.finalize())
    expanded[0] &= 248
    expanded[31] = expanded[31] & 127 | 64

    assert wholes(key_forms(key), bytes(expanded)) == {
        ("scalar", "number, little-endian"),
        ("prefix", "number, big-endian"),
    }


def test_jwk_of_a_key_is_a_find() -> None:
    d = KEYS["p256"].private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
    data = b'{"crv":"P-256","d":"%s","kty":"EC"}' % base64.urlsafe_b64encode(d).rstrip(b"=")

    assert wholes(key_forms(KEYS["p256"]), data) == {("d", "base64")}


@pytest.mark.parametrize(
    "kind", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH]
)
def test_key_is_read_from_each_file_format(kind: PrivateFormat) -> None:
    text = dumped(KEYS["p256"], Encoding.PEM, kind)

    assert {form.data for form in private_key_forms(text)} == {form.data for form in key_forms(KEYS["p256"])}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a private key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a private key"),
        (
            KEYS["p256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
            "encrypted",
        ),
    ],
)
def test_file_that_holds_no_readable_key_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        private_key_forms(data)


@pytest.mark.parametrize("secret", [b"", b"short", b"aaaaaaaaaaaaaaaaaaaaaaaa"])
def test_secret_that_stands_anywhere_is_refused(secret: bytes) -> None:
    with pytest.raises(ConfigError, match="by chance"):
        forms(secret)


def test_short_secret_is_found_only_whole() -> None:
    assert wholes(forms(b"pa55word!"), b"x pa55word! y") == {("token", "as it is")}
    assert wholes(forms(b"pa55word!"), b"x pa55word y") == set()


def test_form_never_shows_what_it_holds() -> None:
    shown = repr(forms(b"0123456789abcdef"))

    assert "0123" not in shown
