"""A host's proof under a receipt."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from unlatch import __main__
from unlatch.bootstrap import identity
from unlatch.bootstrap.identity import Proof, UnprovenHostError
from unlatch.errors import ConfigError

RECEIPT = b"eyJ.a.b"


@pytest.fixture
def host(tmp_path: Path) -> identity.Identity:
    return identity.create(tmp_path / "host.key", in_tpm=False)


def test_enrolled_host_proves_itself(host: identity.Identity) -> None:
    proof = Proof.parse(host.prove(RECEIPT).as_json())

    identity.verify(proof, RECEIPT, enrolled=host.spki)


def test_another_receipt_key_or_signature_is_refused(host: identity.Identity, tmp_path: Path) -> None:
    other = identity.create(tmp_path / "other.key", in_tpm=False)
    proof = host.prove(RECEIPT)
    for changed, receipt, enrolled in (
        (proof, b"eyJ.a.c", host.spki),
        (proof, RECEIPT, other.spki),
        (other.prove(RECEIPT), RECEIPT, host.spki),
        (Proof("tpm", host.spki, other.prove(RECEIPT).signature), RECEIPT, host.spki),
        (Proof("file", host.spki, b""), RECEIPT, host.spki),
        (Proof("file", b"x", proof.signature), RECEIPT, b"x"),
    ):
        with pytest.raises(UnprovenHostError):
            identity.verify(changed, receipt, enrolled=enrolled)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"kind": "vm"},
        {"kind": "tpm"},
        {"kind": "tpm", "key": "!", "signature": "AA"},
        {"kind": ["tpm"]},
    ],
)
def test_what_is_no_proof_is_refused(value: object) -> None:
    with pytest.raises(UnprovenHostError):
        Proof.parse(value)


def test_key_file_is_the_owner_s_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "host.key"
    before = identity.create(path, in_tpm=False).spki

    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="exists"):
        identity.create(path, in_tpm=False)
    assert identity.load(path).spki == before


@pytest.mark.parametrize(
    "data", [b"", b"x", b"-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n"]
)
def test_what_is_no_key_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "host.key"
    path.write_bytes(data)

    with pytest.raises(ConfigError):
        assert identity.load(path).spki


def test_key_on_another_curve_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "host.key"
    shape = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(ec.generate_private_key(ec.SECP384R1()).private_bytes(*shape))

    with pytest.raises(ConfigError, match="P-256"):
        identity.load(path)


def test_commands_make_and_show_a_key(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "host.key"

    assert __main__.run(["host", "enroll", "--file", "--out", str(path)]) == 0
    made = capfd.readouterr()
    assert __main__.run(["host", "show", str(path)]) == 0

    assert "whoever copies the file is this host" in made.err
    assert capfd.readouterr().out == made.out
