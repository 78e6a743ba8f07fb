"""SSH signatures: only the right key, message, purpose and hash, and never without touch."""

from __future__ import annotations

import base64
import functools

import pytest
from support.ssh_keys import KINDS, SshKey, mpint

from unlatch.gate.sshsig import MAGIC, PublicKey, SignatureError, armor, pack, verify_sshsig

MESSAGE, PURPOSE = b"a statement", "unlatch-approve-v1"
TOUCHED_AND_VERIFIED = 0x05


@functools.cache
def key_of(kind: str) -> SshKey:
    return SshKey(kind)


def unarmored(signature: str) -> bytes:
    return base64.b64decode("".join(signature.splitlines()[1:-1]))


@pytest.mark.parametrize("kind", KINDS)
def test_signature_of_every_kind_names_its_key(kind: str) -> None:
    key = key_of(kind)

    found = verify_sshsig(key.sign(MESSAGE, namespace=PURPOSE), MESSAGE, namespace=PURPOSE)

    assert found.key == PublicKey.parse(key.line)
    assert (found.touched, found.verified) == ((True, False) if key.is_security_key else (None, None))


@pytest.mark.parametrize("kind", KINDS)
def test_signature_over_another_message_is_refused(kind: str) -> None:
    signature = key_of(kind).sign(MESSAGE, namespace=PURPOSE)
    with pytest.raises(SignatureError, match="wrong"):
        verify_sshsig(signature, MESSAGE + b" ", namespace=PURPOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_signature_for_another_purpose_is_refused(kind: str) -> None:
    signature = key_of(kind).sign(MESSAGE, namespace="unlatch-session-v1")
    with pytest.raises(SignatureError, match="another purpose"):
        verify_sshsig(signature, MESSAGE, namespace=PURPOSE)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("sk-")])
@pytest.mark.parametrize("flags", [0x00, 0x04])
def test_security_key_without_touch_is_refused(kind: str, flags: int) -> None:
    signature = key_of(kind).sign(MESSAGE, namespace=PURPOSE, flags=flags)
    with pytest.raises(SignatureError, match="without touch"):
        verify_sshsig(signature, MESSAGE, namespace=PURPOSE)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("sk-")])
def test_touch_flag_that_was_set_afterwards_is_refused(kind: str) -> None:
    blob = unarmored(key_of(kind).sign(MESSAGE, namespace=PURPOSE, flags=0))
    forged = blob[:-5] + b"\x01" + blob[-4:]
    with pytest.raises(SignatureError, match="wrong"):
        verify_sshsig(armor(forged), MESSAGE, namespace=PURPOSE)


def test_security_key_says_that_it_verified_its_user() -> None:
    signature = key_of(KINDS[-1]).sign(MESSAGE, namespace=PURPOSE, flags=TOUCHED_AND_VERIFIED)

    assert verify_sshsig(signature, MESSAGE, namespace=PURPOSE).verified is True


@pytest.mark.parametrize("hash_name", ["sha256", "sha512"])
def test_both_hashes_of_ssh_keygen_are_taken(hash_name: str) -> None:
    key = key_of("ssh-ed25519")
    signature = key.sign(MESSAGE, namespace=PURPOSE, hash_name=hash_name)

    assert verify_sshsig(signature, MESSAGE, namespace=PURPOSE).key == key.public


def test_another_hash_is_refused() -> None:
    signature = key_of("ssh-ed25519").sign(MESSAGE, namespace=PURPOSE, hash_name="sha1")
    with pytest.raises(SignatureError, match="another hash"):
        verify_sshsig(signature, MESSAGE, namespace=PURPOSE)


def test_rsa_signature_with_sha1_is_refused() -> None:
    signature = key_of("ssh-rsa").sign(MESSAGE, namespace=PURPOSE, rsa_kind="ssh-rsa")
    with pytest.raises(SignatureError, match="another type"):
        verify_sshsig(signature, MESSAGE, namespace=PURPOSE)


def test_rsa_key_under_2048_bits_is_refused() -> None:
    key = SshKey("ssh-rsa", rsa_bits=1024)
    with pytest.raises(SignatureError, match="1024 bits"):
        PublicKey.parse(key.line)
    with pytest.raises(SignatureError, match="1024 bits"):
        verify_sshsig(key.sign(MESSAGE, namespace=PURPOSE), MESSAGE, namespace=PURPOSE)


@pytest.mark.parametrize(("exponent", "bits"), [(2**32 + 1, 2048), (65537, 16385), (2**4000 + 1, 4096)])
def test_rsa_key_that_would_keep_a_verifier_busy_is_refused(exponent: int, bits: int) -> None:
    blob = pack(b"ssh-rsa") + mpint(exponent) + mpint(2 ** (bits - 1) + 1)
    with pytest.raises(SignatureError, match="RSA key"):
        PublicKey.parse("ssh-rsa " + base64.b64encode(blob).decode())


def test_signature_that_says_another_type_than_its_key_is_refused() -> None:
    key = key_of("ssh-ed25519")
    blob = unarmored(key.sign(MESSAGE, namespace=PURPOSE))
    inner = key.sign_raw(b"")
    kind = pack(b"ssh-ed25519")
    changed = blob[: -len(inner)] + pack(b"ssh-ed25510") + blob[-len(inner) + len(kind) :]
    with pytest.raises(SignatureError, match="another type"):
        verify_sshsig(armor(changed), MESSAGE, namespace=PURPOSE)


def test_bytes_after_the_signature_are_refused() -> None:
    blob = unarmored(key_of("ssh-ed25519").sign(MESSAGE, namespace=PURPOSE))
    with pytest.raises(SignatureError, match="left over"):
        verify_sshsig(armor(blob + b"\0"), MESSAGE, namespace=PURPOSE)


def test_another_version_is_refused() -> None:
    blob = unarmored(key_of("ssh-ed25519").sign(MESSAGE, namespace=PURPOSE))
    with pytest.raises(SignatureError, match="version 1"):
        verify_sshsig(armor(MAGIC + b"\0\0\0\2" + blob[10:]), MESSAGE, namespace=PURPOSE)


@pytest.mark.parametrize(
    "text",
    ["", "-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n", "U1NIU0lH", "-----BEGIN SSH SIGNATURE-----\n====\n-----END SSH SIGNATURE-----\n"],
)  # fmt: skip
def test_text_that_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(SignatureError):
        verify_sshsig(text, MESSAGE, namespace=PURPOSE)


def test_huge_signature_is_refused_unread() -> None:
    text = armor(b"\0" * 20000)
    with pytest.raises(SignatureError, match="not an SSH signature"):
        verify_sshsig(text, MESSAGE, namespace=PURPOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_public_key_line_is_read_and_written_alike(kind: str) -> None:
    line = key_of(kind).line

    assert str(PublicKey.parse(f"{line} mara@laptop\n")) == line


@pytest.mark.parametrize(
    "line",
    [
        "", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-ed25519 ä", "ssh-ed25519 !!!!",
        "ssh-dss " + base64.b64encode(pack(b"ssh-dss")).decode(),
        "two\nlines " + base64.b64encode(pack(b"two")).decode(),
    ],
)  # fmt: skip
def test_line_that_is_no_public_key_is_refused(line: str) -> None:
    with pytest.raises(SignatureError):
        PublicKey.parse(line)


def test_public_key_line_of_another_type_than_its_blob_is_refused() -> None:
    encoded = key_of("ssh-ed25519").line.split()[1]
    with pytest.raises(SignatureError, match="another type"):
        PublicKey.parse(f"ssh-rsa {encoded}")


def test_compressed_point_is_no_second_name_of_a_key() -> None:
    blob = key_of("ecdsa-sha2-nistp256").blob
    x, y = blob[-64:-32], blob[-32:]
    point = bytes([2 + (y[-1] & 1)]) + x
    line = "ecdsa-sha2-nistp256 " + base64.b64encode(
        pack(b"ecdsa-sha2-nistp256") + pack(b"nistp256") + pack(point)
    ).decode()  # fmt: skip
    with pytest.raises(SignatureError):
        PublicKey.parse(line)


def test_point_off_its_curve_is_refused() -> None:
    blob = bytearray(key_of("ecdsa-sha2-nistp256").blob)
    blob[-1] ^= 1
    with pytest.raises(SignatureError):
        PublicKey.parse("ecdsa-sha2-nistp256 " + base64.b64encode(blob).decode())


@pytest.mark.parametrize(
    "number", [b"\x00\x00\x00\x01\x80", b"\x00\x00\x00\x02\x00\x01", b"\x00\x00\x00\x01\x00"]
)
def test_number_that_is_negative_or_padded_is_refused(number: bytes) -> None:
    line = "ssh-rsa " + base64.b64encode(pack(b"ssh-rsa") + number + mpint(5)).decode()
    with pytest.raises(SignatureError, match="negative or padded"):
        PublicKey.parse(line)
