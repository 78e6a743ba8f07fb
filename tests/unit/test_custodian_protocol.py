"""Messages between guard and a custodian, and what a custodian agrees to sign."""

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from support.custodian_process import TLS12, tls13

from unlatch.errors import ConfigError
from unlatch.memguard.custodian import handshake, protocol, signatures
from unlatch.memguard.custodian.handshake import Algorithm, Method, NotAHandshakeError, SchemeError
from unlatch.memguard.custodian.protocol import MalformedError, Message, Operation, Refusal
from unlatch.memguard.custodian.signatures import WrongSignatureError

RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def test_message_survives_encoding() -> None:
    message = Message(Operation.SIGN, 7, 0xFFFFFFFF, b"payload")

    assert Message.decode(message.encode()) == message
    assert message.encode().hex() == "01010007ffffffff00000007" + b"payload".hex()


@pytest.mark.parametrize(
    "data",
    [b"", bytes(11), b"\2" + bytes(11), bytes.fromhex("010100010000000100000001"),
     bytes.fromhex("01010001000000010000000000"), b"\1" * (protocol.MAX_BYTES + 1)],
)  # fmt: skip
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Message.decode(data)


def test_replies_and_refusals_echo_key_and_number() -> None:
    asked = Message(Operation.SIGN, 7, 9, b"secret")

    assert Message.decode(protocol.reply(asked, b"x")) == Message(0x81, 7, 9, b"x")
    assert Message.decode(protocol.refusal(asked, Refusal.BUSY)) == Message(0xFF, 7, 9, b"\x08")


def test_sign_needs_a_scheme_and_a_message() -> None:
    assert protocol.split_sign(b"\4\3m") == (0x0403, b"m")
    with pytest.raises(MalformedError):
        protocol.split_sign(b"\4\3")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b" " * 64,
        tls13()[1:],
        b" " + tls13(),
        tls13()[:-1],
        tls13() + b"x",
        tls13().replace(b"server", b"client"),
        tls13().replace(b"\0", b"\1", 1),
        TLS12[:-1],
        TLS12 + b"x",
        TLS12[:64] + b"\1" + TLS12[65:],
        TLS12[:-1] + bytes([TLS12[-1] ^ 1]),
        TLS12[:65] + b"\0\x18" + TLS12[67:],
        bytes(64) + b"\3\0\x1d\x1f" + bytes(31),
        bytes(64) + b"\3\0\x1e\x20" + bytes(32),
    ],
)
def test_what_no_tls_server_signs_is_refused(message: bytes) -> None:
    with pytest.raises(NotAHandshakeError):
        handshake.check(message)


def test_messages_of_tls_servers_are_told_apart() -> None:
    assert handshake.check(tls13()) == "tls13"
    assert handshake.check(tls13() + bytes(16)) == "tls13"
    assert handshake.check(TLS12) == "tls12"
    assert handshake.check(bytes(64) + b"\3\0\x1d\x20" + bytes(32)) == "tls12"


@pytest.mark.parametrize(
    ("algorithm", "scheme", "tls12", "tls13"),
    [
        ("rsa", 0x0804, True, True),
        ("rsa", 0x0806, True, True),
        ("rsa", 0x0401, True, False),
        ("rsa", 0x0601, True, False),
        ("rsa", 0x0201, False, False),
        ("rsa", 0x0403, False, False),
        ("rsa", 0x0807, False, False),
        ("ecdsa-p256", 0x0403, True, True),
        ("ecdsa-p256", 0x0503, True, False),
        ("ecdsa-p384", 0x0503, True, True),
        ("ecdsa-p384", 0x0403, True, False),
        ("ecdsa-p521", 0x0603, True, True),
        ("ecdsa-p256", 0x0203, False, False),
        ("ecdsa-p256", 0x0804, False, False),
        ("ed25519", 0x0807, True, True),
        ("ed25519", 0x0808, False, False),
        ("ed25519", 0x0403, False, False),
    ],
)
def test_scheme_fits_key_and_version(algorithm: Algorithm, scheme: int, tls12: bool, tls13: bool) -> None:
    for version, allowed in (("tls12", tls12), ("tls13", tls13)):
        if allowed:
            handshake.method(algorithm, scheme, version)  # type: ignore[arg-type]
        else:
            with pytest.raises(SchemeError):
                handshake.method(algorithm, scheme, version)  # type: ignore[arg-type]


def test_signatures_are_verified_as_tls_wants_them() -> None:
    pss, short = (padding.PSS(padding.MGF1(hashes.SHA256()), size) for size in (32, 20))
    how = Method("rsa", "sha256", "pss")
    signatures.verify(RSA.public_key(), how, b"m", RSA.sign(b"m", pss, hashes.SHA256()))
    signatures.verify(ED.public_key(), Method("ed25519", None), b"m", ED.sign(b"m"))
    for key, method, signature in (
        (RSA.public_key(), how, RSA.sign(b"m", short, hashes.SHA256())),
        (RSA.public_key(), how, RSA.sign(b"m", padding.PKCS1v15(), hashes.SHA256())),
        (RSA.public_key(), how, b""),
        (ED.public_key(), Method("ed25519", None), ED.sign(b"other")),
        (P256.public_key(), Method("ecdsa-p256", "sha256"), b"\0" * 70),
    ):
        with pytest.raises(WrongSignatureError):
            signatures.verify(key, method, b"m", signature)


def test_halves_become_der() -> None:
    signature = P256.sign(b"m", ec.ECDSA(hashes.SHA256()))
    r, s = utils.decode_dss_signature(signature)

    assert signatures.from_halves(r.to_bytes(32, "big") + s.to_bytes(32, "big")) == signature
    for raw in (b"", b"abc"):
        with pytest.raises(WrongSignatureError):
            signatures.from_halves(raw)


def test_keys_that_tls_servers_do_not_use_are_refused() -> None:
    assert signatures.algorithm_of(RSA.public_key()) == "rsa"
    for key in (
        rsa.generate_private_key(65537, 1024).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
    ):
        with pytest.raises(ConfigError):
            signatures.algorithm_of(key)
