"""An edge that was taken over: everything it could want signed, with every key and scheme, is refused and counted."""

import datetime as dt
import itertools
import os
import struct
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from support.guard_client import (
    GuardClient,
    RefusedByGuard,
    WorkerClient,
    base64url,
    bundle,
    certificate_verify,
    private_key_secret,
    running_guard,
    seal,
    server_key_exchange,
    spki,
    token_secret,
)
from support.pki import PrivateKey, new_key

CONTENT_KEY = os.urandom(32)
KEYS: dict[str, PrivateKey] = {
    "p256": new_key("p256"),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": new_key("ed25519"),
    "rsa": new_key("rsa"),
}
SCHEMES = [
    0x0401,
    0x0403,
    0x0501,
    0x0503,
    0x0601,
    0x0603,
    0x0804,
    0x0805,
    0x0806,
    0x0807,
    0x0201,
    0x0203,
    0x0000,
]
TOKEN_USE = {"upstream": "https://api.psp.example:443", "callers": ["anyone"]}
NOT_FOR_THIS_SOCKET, CONTEXT = 3, 5


@pytest.fixture(scope="module")
def guard() -> Iterator[GuardClient]:
    use = {"names": ["pay.example"], "roles": ["server", "csr"]}
    secrets = {name: private_key_secret(key, use) for name, key in KEYS.items()}
    secrets["psp"] = token_secret("token", TOKEN_USE)
    claims = [
        {"where": name, "key": name, "spki": base64url(spki(key)), "names": ["pay.example"]}
        for name, key in KEYS.items()
    ]
    place = {"header": "Authorization", "scheme": "bearer"}
    route = {"id": 1, "where": "r", "secret": "psp", "ca": None, "place": place} | TOKEN_USE
    with running_guard() as guard:
        guard.load(seal(bundle(secrets), CONTENT_KEY), CONTENT_KEY)
        guard.configure({"certificates": claims, "inject": [route]})
        yield guard


@pytest.fixture(scope="module")
def edge(guard: GuardClient) -> Iterator[WorkerClient]:
    worker = guard.edge()
    yield worker
    worker.socket.close()


def certificate() -> x509.Certificate:
    """A CA certificate, as somebody who can sign with a server's key would like to make one."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pay.example")])
    authority = x509.BasicConstraints(ca=True, path_length=None)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    return (
        builder.public_key(KEYS["p256"].public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2036, 1, 1, tzinfo=dt.UTC))
        .add_extension(authority, critical=True)
        .sign(new_key("p256"), hashes.SHA256())
    )


def request() -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(new_key("p256"), hashes.SHA256()).tbs_certrequest_bytes


def stuffed_exchange() -> list[bytes]:
    """TLS 1.2 parameters whose point is no point, or carries something else."""
    randoms = os.urandom(64)
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    encoded = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    head = randoms + struct.pack(">BHB", 3, 23, 65)
    return [
        head + b"\4" + certificate().tbs_certificate_bytes[:64],
        head + encoded[:1] + bytes(64),
        head + encoded[:1] + b"\xff" * 64,
        randoms + struct.pack(">BHB", 3, 23, 66) + encoded + b"\0",
        randoms + struct.pack(">BHB", 3, 24, 65) + encoded,
        randoms
        + struct.pack(">BHB", 3, 23, 33)
        + point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint),
        randoms + b"\1" + encoded,
        randoms + b"\2" + encoded,
        randoms + struct.pack(">BHB", 3, 0xFE0D, 32) + os.urandom(32),
        randoms + struct.pack(">BHB", 3, 0x11EC, 32) + os.urandom(32),
    ]


def wanted() -> dict[str, bytes]:
    """Documents and messages that a server's key must never sign for edge."""
    client = b" " * 64 + b"TLS 1.3, client CertificateVerify\0" + os.urandom(32)
    delegated = b" " * 64 + b"TLS, server delegated credentials\0" + os.urandom(80)
    named = {
        "certificate": certificate().tbs_certificate_bytes,
        "request": request(),
        "digest": os.urandom(32),
        "digest info": bytes.fromhex("3031300d060960864801650304020105000420") + os.urandom(32),
        "jwt": b"eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhZG1pbiIsImV4cCI6MTc5NTU5NjE2MX0",
        "ssh file": b"SSHSIG\0\0\0\4file\0\0\0\0\0\0\0\6sha512\0\0\0\x40" + os.urandom(64),
        "ssh login": struct.pack(">I", 32) + os.urandom(32) + b"2\0\0\0\4root\0\0\0\x0essh-connection",
        "client verify": client,
        "delegated credential": delegated,
        "exported authenticator": b" " * 64 + b"Exported Authenticator\0" + os.urandom(32),
        "acme": b"eyJhbGciOiJFUzI1NiJ9.eyJyZXNvdXJjZSI6Im5ldy1yZWcifQ",
        "firmware": os.urandom(4000),
        "nothing": b"",
        "one byte": b" ",
        "tls 1.2 client": os.urandom(500),
        "verify, shorter": certificate_verify()[:-1],
        "verify, longer": certificate_verify() + b"\0",
        "verify, behind": b"\0" + certificate_verify(),
        "verify, twice": certificate_verify() * 2,
        "verify of 64": certificate_verify(64),
        "exchange, shorter": server_key_exchange()[:-1],
        "exchange, longer": server_key_exchange() + b"\0",
        "exchange behind a verify": certificate_verify() + server_key_exchange(),
    }
    return named | {f"stuffed {number}": message for number, message in enumerate(stuffed_exchange())}


def test_nothing_but_a_servers_handshake_is_signed_with_any_key_and_scheme(
    guard: GuardClient, edge: WorkerClient
) -> None:
    before = guard.status()
    attempts = list(itertools.product(range(1, len(KEYS) + 1), SCHEMES, wanted().items()))
    for key, scheme, (name, message) in attempts:
        with pytest.raises(RefusedByGuard) as refused:
            edge.sign(key, scheme, message)
        assert refused.value.code == CONTEXT, (key, scheme, name)

    after = guard.status()
    assert after["refusals"]["context"] - before["refusals"].get("context", 0) == len(attempts)
    assert after["signatures_total"] == before["signatures_total"]


def test_tokens_and_headers_are_not_for_edge(guard: GuardClient, edge: WorkerClient) -> None:
    for ask in (edge.token, edge.authorize):
        with pytest.raises(RefusedByGuard) as refused:
            ask()
        assert refused.value.code == NOT_FOR_THIS_SOCKET


def test_keys_of_other_workers_are_not_for_edge(guard: GuardClient) -> None:
    own = guard.edge(keys=[1])
    for key, scheme in itertools.product(range(2, len(KEYS) + 1), SCHEMES):
        with pytest.raises(RefusedByGuard) as refused:
            own.sign(key, scheme, certificate_verify())
        assert refused.value.code == NOT_FOR_THIS_SOCKET
    own.socket.close()


@pytest.mark.parametrize("operation", [*range(0x40, 0x48), 0x04, 0x12, 0x80, 0x81, 0xFE, 0x00])
def test_operations_of_the_supervisor_close_the_socket(guard: GuardClient, operation: int) -> None:
    worker = guard.edge()
    with pytest.raises(RefusedByGuard) as refused:
        worker.ask(operation, payload=b"{}")

    assert refused.value.code == 1
    assert worker.is_closed()
    worker.socket.close()
