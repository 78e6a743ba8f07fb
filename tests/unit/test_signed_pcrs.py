"""Files of signed PCR values."""

import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from unlatch.bootstrap.pins import signed_pcrs
from unlatch.bootstrap.pins.signed_pcrs import SignedPcrs
from unlatch.errors import ConfigError

KEY = ec.generate_private_key(ec.SECP256R1())


def one(**changed: object) -> SignedPcrs:
    made = signed_pcrs.sign(KEY, "sha256", (11, 7), bytes(64), epoch=3, reference="pay")
    return SignedPcrs.parse(made.as_json() | changed)


def test_written_file_reads_back() -> None:
    values = [one(), signed_pcrs.sign(KEY, "sha1", (0,), bytes(20), epoch=None, reference="")]

    assert signed_pcrs.read(signed_pcrs.write(values)) == values


@pytest.mark.parametrize(
    "changed",
    [
        {"bank": "md5"},
        {"bank": None},
        {"pcrs": "24"},
        {"pcrs": [7]},
        {"values": "AAAA"},
        {"values": "!"},
        {"signature": "AAAA"},
        {"epoch": -1},
        {"epoch": True},
        {"epoch": "3"},
        {"epoch": 1 << 63},
        {"for": 1},
    ],
    ids=str,
)
def test_entry_with_a_wrong_member_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="signed PCR values"):
        one(**changed)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"unlatch_signed_pcrs":2,"signed":[]}', b'{"unlatch_signed_pcrs":1}',
     b'{"unlatch_signed_pcrs":1,"signed":[1]}'],
)  # fmt: skip
def test_file_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        signed_pcrs.read(data)


def test_policy_depends_on_everything_that_is_signed() -> None:
    digests = {
        signed_pcrs.policy_digest(bank, pcrs, values, epoch)
        for bank, pcrs, values, epoch in [
            ("sha256", (7,), bytes(32), None),
            ("sha256", (7,), b"\1" * 32, None),
            ("sha256", (8,), bytes(32), None),
            ("sha384", (7,), bytes(32), None),
            ("sha256", (7,), bytes(32), 1),
            ("sha256", (7,), bytes(32), 2),
        ]
    }

    assert len(digests) == 6


def pem(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_only_keys_on_p256_sign_policies() -> None:
    assert signed_pcrs.read_public_key(pem(KEY.public_key()))
    for key in (
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
    ):
        with pytest.raises(ConfigError, match="P-256"):
            signed_pcrs.read_public_key(pem(key))
    with pytest.raises(ConfigError, match="no public key"):
        signed_pcrs.read_public_key(json.dumps({}).encode())
