"""Signed PCR values on a software TPM: a kernel update needs no resealing, and an epoch takes values back."""

import hashlib
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.secrets import revealed, secret
from support.swtpm import Swtpm

from unlatch.bootstrap import seal
from unlatch.bootstrap.pins import signed_pcrs, tpm2
from unlatch.bootstrap.pins.hardware import Hardware
from unlatch.bootstrap.pins.signed_pcrs import SignedPcrs
from unlatch.bootstrap.pins.tpm2_header import Tpm2Pin
from unlatch.bootstrap.policy import Tpm2Rule
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import ConfigError, PolicyRefusedError
from unlatch.memguard._native import jwe_open
from unlatch.memguard.custodian import tpm_policy
from unlatch.memguard.custodian.tss import Tpm

pytestmark = pytest.mark.interop

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
ZERO = bytes(32)


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    with Swtpm() as running:
        yield running


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, shape = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, shape)


def extended(text: str) -> bytes:
    """PCR value after one event."""
    return hashlib.sha256(ZERO + hashlib.sha256(text.encode()).digest()).digest()


def signed(
    values: bytes,
    *,
    key: ec.EllipticCurvePrivateKey = KEY,
    epoch: int | None = None,
    reference: str = "",
    pcrs: tuple[int, ...] = (11,),
) -> SignedPcrs:
    return signed_pcrs.sign(key, "sha256", pcrs, values, epoch=epoch, reference=reference)


def sealed(tpm: Swtpm, *, reference: str = "") -> SealedFile:
    rule = Tpm2Rule(authority=spki(KEY), reference=reference)
    return SealedFile.parse(seal.encrypt(secret(b"hi"), rule, hardware=Hardware(tpm.tcti)))


def opened(tpm: Swtpm, file: SealedFile, *values: SignedPcrs) -> bytes:
    assert isinstance(file.pin, Tpm2Pin)
    key = tpm2.recover(file.compact, file.pin, tcti=tpm.tcti, signed=values)
    return revealed(jwe_open(file.compact, key))


def test_new_values_open_without_resealing(tpm: Swtpm) -> None:
    file = sealed(tpm)
    old, new = signed(ZERO), signed(extended("kernel 2"))
    assert opened(tpm, file, old) == b"hi"
    tpm.extend(11, "kernel 2")

    with pytest.raises(PolicyRefusedError, match="values that the policy key signed"):
        opened(tpm, file, old)
    assert opened(tpm, file, old, new) == b"hi"
    assert tpm.leaks() == []


def test_several_pcrs_in_any_order(tpm: Swtpm) -> None:
    tpm.extend(11, "kernel")
    file = sealed(tpm)

    assert opened(tpm, file, signed(ZERO + extended("kernel"), pcrs=(11, 7))) == b"hi"


def test_nothing_signed_opens_nothing(tpm: Swtpm) -> None:
    with pytest.raises(PolicyRefusedError):
        opened(tpm, sealed(tpm))


def test_another_keys_signature_opens_nothing(tpm: Swtpm) -> None:
    file = sealed(tpm)

    with pytest.raises(PolicyRefusedError):
        opened(tpm, file, signed(ZERO, key=OTHER))
    mixed = (signed(ZERO).signature[0], signed(ZERO, key=OTHER).signature[1])
    with pytest.raises(PolicyRefusedError):
        opened(tpm, file, SignedPcrs("sha256", (11,), ZERO, None, "", mixed))
    assert tpm.leaks() == []


def test_signature_for_another_reference_opens_nothing(tpm: Swtpm) -> None:
    file = sealed(tpm, reference="pay")

    for reference in ("", "shop"):
        with pytest.raises(PolicyRefusedError):
            opened(tpm, file, signed(ZERO, reference=reference))
    relabelled = signed(ZERO)
    with pytest.raises(PolicyRefusedError):
        opened(tpm, file, SignedPcrs("sha256", (11,), ZERO, None, "pay", relabelled.signature))
    assert opened(tpm, file, signed(ZERO, reference="pay")) == b"hi"


def test_epoch_takes_old_values_back(tpm: Swtpm) -> None:
    file = sealed(tpm)
    with Tpm(tpm.tcti) as connection:
        assert tpm_policy.counter(connection) is None
        assert tpm_policy.advance(connection, 5) == 5
    vulnerable, fixed = signed(ZERO, epoch=5), signed(ZERO, epoch=6)
    assert opened(tpm, file, vulnerable) == b"hi"

    with Tpm(tpm.tcti) as connection:
        tpm_policy.advance(connection, 6)

    with pytest.raises(PolicyRefusedError):
        opened(tpm, file, vulnerable)
    assert opened(tpm, file, vulnerable, fixed) == b"hi"
    assert tpm.leaks() == []


def test_epoch_cannot_be_taken_off(tpm: Swtpm) -> None:
    file = sealed(tpm)
    with Tpm(tpm.tcti) as connection:
        tpm_policy.advance(connection, 6)
    old = signed(ZERO, epoch=5)

    for epoch in (None, 6, 1 << 40):
        with pytest.raises(PolicyRefusedError):
            opened(tpm, file, SignedPcrs("sha256", (11,), ZERO, epoch, "", old.signature))


def test_machine_without_a_counter_does_not_open_values_with_an_epoch(tpm: Swtpm) -> None:
    with pytest.raises(PolicyRefusedError):
        opened(tpm, sealed(tpm), signed(ZERO, epoch=5))


def test_removed_counter_does_not_start_again_below(tpm: Swtpm) -> None:
    with Tpm(tpm.tcti) as connection:
        tpm_policy.advance(connection, 9)
    tpm.run("tpm2_nvundefine", "-C", "o", hex(tpm_policy.COUNTER_INDEX))

    with Tpm(tpm.tcti) as connection, pytest.raises(ConfigError, match="above 9"):
        tpm_policy.advance(connection, 9)


def test_counter_only_grows_and_in_small_steps(tpm: Swtpm) -> None:
    with Tpm(tpm.tcti) as connection:
        tpm_policy.advance(connection, 9)
        with pytest.raises(ConfigError, match="above 3"):
            tpm_policy.advance(connection, 3)
        with pytest.raises(ConfigError, match="more than"):
            tpm_policy.advance(connection, 1 << 32)
        assert tpm_policy.counter(connection) == 9


def test_clevis_names_the_pin_that_it_does_not_have(tpm: Swtpm) -> None:
    with pytest.raises(AssertionError, match="unlatch-tpm2"):
        tpm.run("clevis", "decrypt", data=sealed(tpm).compact)
