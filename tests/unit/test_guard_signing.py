"""Guard signs TLS server handshakes with the configured keys, and nothing else."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from support.guard_client import (
    ECDSA_P256,
    ECDSA_P384,
    ED25519,
    PKCS1_SHA256,
    PSS_SHA256,
    PSS_SHA384,
    PSS_SHA512,
    ControlFault,
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

KINDS = ("p256", "rsa", "ed25519")
USE = {"names": ["pay.example", "*.shop.example"], "roles": ["server", "csr"]}
UNKNOWN, NOT_FOR_THIS_SOCKET, SCHEME, CONTEXT, TOO_MANY = 2, 3, 4, 5, 8


def claim(name: str, key: PrivateKey, names: list[str] | None = None) -> dict[str, Any]:
    return {
        "where": f"at {name}",
        "key": name,
        "spki": base64url(spki(key)),
        "names": names or ["pay.example"],
    }


@pytest.fixture(scope="module")
def keys() -> dict[str, PrivateKey]:
    return {kind: new_key(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def guard(keys: dict[str, PrivateKey]) -> Iterator[GuardClient]:
    secrets = {kind: private_key_secret(key, USE) for kind, key in keys.items()}
    secrets["unused"] = private_key_secret(new_key("p256"), {"names": ["pay.example"]})
    secrets["token"] = token_secret("t")
    content_key = os.urandom(32)
    with running_guard() as guard:
        guard.load(seal(bundle(secrets), content_key), content_key)
        guard.configure({"certificates": [claim(kind, key) for kind, key in keys.items()], "inject": []})
        yield guard


@pytest.fixture(scope="module")
def edge(guard: GuardClient) -> Iterator[WorkerClient]:
    worker = guard.edge()
    yield worker
    worker.socket.close()


def client_verify() -> bytes:
    return b"\x20" * 64 + b"TLS 1.3, client CertificateVerify\0" + os.urandom(32)


def verify(key: PrivateKey, scheme: int, signature: bytes, message: bytes) -> None:
    public = key.public_key()
    digest = {0x04: hashes.SHA256(), 0x05: hashes.SHA384(), 0x06: hashes.SHA512()}
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, message, ec.ECDSA(digest[scheme >> 8]))
    elif isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(signature, message)
    elif scheme >> 8 == 0x08:
        hash_algorithm = digest[scheme & 0xFF]
        salt = padding.PSS(padding.MGF1(hash_algorithm), hash_algorithm.digest_size)
        public.verify(signature, message, salt, hash_algorithm)
    else:
        public.verify(signature, message, padding.PKCS1v15(), digest[scheme >> 8])


@pytest.mark.parametrize(
    ("key", "kind", "scheme"),
    [
        (1, "p256", ECDSA_P256),
        (2, "rsa", PSS_SHA256),
        (2, "rsa", PSS_SHA384),
        (2, "rsa", PSS_SHA512),
        (3, "ed25519", ED25519),
    ],
)
@pytest.mark.parametrize("hash_bytes", [32, 48])
def test_tls13_signature_verifies(
    edge: WorkerClient, keys: dict[str, PrivateKey], key: int, kind: str, scheme: int, hash_bytes: int
) -> None:
    message = certificate_verify(hash_bytes)

    signature = edge.sign(key, scheme, message)

    verify(keys[kind], scheme, signature, message)
    with pytest.raises(InvalidSignature):
        verify(keys[kind], scheme, signature, message[:-1] + bytes([message[-1] ^ 1]))


@pytest.mark.parametrize(
    ("key", "kind", "scheme"),
    [
        (1, "p256", ECDSA_P256),
        (1, "p256", 0x0503),
        (2, "rsa", PKCS1_SHA256),
        (2, "rsa", 0x0601),
        (2, "rsa", PSS_SHA256),
        (3, "ed25519", ED25519),
    ],
)
def test_tls12_signature_verifies(
    edge: WorkerClient, keys: dict[str, PrivateKey], key: int, kind: str, scheme: int
) -> None:
    message = server_key_exchange()

    verify(keys[kind], scheme, edge.sign(key, scheme, message), message)


def test_many_rsa_signatures_verify_over_blinding_pairs(
    edge: WorkerClient, keys: dict[str, PrivateKey]
) -> None:
    message = certificate_verify()

    for _ in range(70):
        verify(keys["rsa"], PSS_SHA256, edge.sign(2, PSS_SHA256, message), message)


@pytest.mark.parametrize(
    ("key", "scheme"),
    [
        (1, ECDSA_P384),
        (1, ED25519),
        (1, PSS_SHA256),
        (2, PKCS1_SHA256),
        (2, ECDSA_P256),
        (3, ECDSA_P256),
        (2, 0x0201),
        (1, 0),
    ],
)
def test_scheme_that_does_not_fit_is_refused(edge: WorkerClient, key: int, scheme: int) -> None:
    with pytest.raises(RefusedByGuard) as refused:
        edge.sign(key, scheme, certificate_verify())

    assert refused.value.code == SCHEME


@pytest.mark.parametrize(
    "message",
    [
        b"",
        os.urandom(32),
        certificate_verify()[1:],
        certificate_verify(20),
        b"\x20" * 64 + b"TLS 1.3, client CertificateVerify\0" + os.urandom(32),
        server_key_exchange()[:-1],
        server_key_exchange() + b"\0",
        b"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9",
        b"SSHSIG\0\0\0\4file\0\0\0\0\0\0\0\6sha512\0\0\0\x40" + os.urandom(64),
        b"x" * 16000,
    ],
    ids=range(10),
)
def test_message_that_is_no_server_handshake_is_refused(edge: WorkerClient, message: bytes) -> None:
    with pytest.raises(RefusedByGuard) as refused:
        edge.sign(1, ECDSA_P256, message)

    assert refused.value.code == CONTEXT


def test_certificate_and_request_are_not_signed(edge: WorkerClient, keys: dict[str, PrivateKey]) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(new_key("p256"), hashes.SHA256())

    with pytest.raises(RefusedByGuard) as refused:
        edge.sign(1, ECDSA_P256, request.tbs_certrequest_bytes)

    assert refused.value.code == CONTEXT


@pytest.mark.parametrize(
    "key", [0, 4, 5, 6, 65535], ids=["zero", "not configured", "token", "behind", "last"]
)
def test_key_outside_the_configuration_is_refused(edge: WorkerClient, key: int) -> None:
    with pytest.raises(RefusedByGuard) as refused:
        edge.sign(key, ECDSA_P256, certificate_verify())

    assert refused.value.code == UNKNOWN


def test_key_that_was_not_given_to_the_socket_is_refused(guard: GuardClient) -> None:
    worker = guard.edge(keys=[1])
    worker.sign(1, ECDSA_P256, certificate_verify())

    with pytest.raises(RefusedByGuard) as refused:
        worker.sign(3, ED25519, certificate_verify())

    assert refused.value.code == NOT_FOR_THIS_SOCKET
    worker.socket.close()


def test_signatures_beyond_the_rate_are_refused(guard: GuardClient) -> None:
    worker = guard.edge(rate=2)
    worker.sign(1, ECDSA_P256, certificate_verify())
    worker.sign(1, ECDSA_P256, certificate_verify())

    with pytest.raises(RefusedByGuard) as refused:
        worker.sign(1, ECDSA_P256, certificate_verify())

    assert refused.value.code == TOO_MANY
    worker.socket.close()


def test_signatures_and_refusals_are_counted(guard: GuardClient, edge: WorkerClient) -> None:
    before = guard.status()
    edge.sign(1, ECDSA_P256, certificate_verify())
    with pytest.raises(RefusedByGuard):
        edge.sign(1, ECDSA_P256, b"anything")

    after = guard.status()

    assert after["keys"][0]["signatures"] == before["keys"][0]["signatures"] + 1
    assert after["refusals"]["context"] == before["refusals"].get("context", 0) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_csr_holds_the_sealed_names_and_verifies(
    guard: GuardClient, keys: dict[str, PrivateKey], kind: str
) -> None:
    request = x509.load_pem_x509_csr(guard.csr(kind))

    assert request.is_signature_valid
    assert request.public_key() == keys[kind].public_key()
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == USE["names"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("unused", "rules", "role csr"),
        ("token", "key", "no private key"),
        ("absent", "key", "no private key"),
    ],
)
def test_csr_outside_the_rules_is_refused(guard: GuardClient, name: str, kind: str, message: str) -> None:
    with pytest.raises(ControlFault) as refused:
        guard.csr(name)

    assert refused.value.kind == kind
    assert message in refused.value.message


def test_ticket_keys_are_the_same_for_a_node_and_differ_between_nodes(guard: GuardClient) -> None:
    one, same, other = guard.edge(node="a"), guard.edge(node="a"), guard.edge(node="b")
    epoch, left, before, now = one.ticket_keys()

    assert 0 < left <= 3600
    assert epoch == 0
    assert before != now
    assert same.ticket_keys()[2:] == (before, now)
    assert not {before, now} & set(other.ticket_keys()[2:])
    for worker in (one, same, other):
        worker.socket.close()


def test_egress_gets_neither_ticket_keys_nor_signatures_of_servers_keys(guard: GuardClient) -> None:
    egress = guard.egress()

    for ask, code in (
        (egress.ticket_keys, NOT_FOR_THIS_SOCKET),
        (lambda: egress.sign(1, ECDSA_P256, certificate_verify()), UNKNOWN),
        (lambda: egress.sign(1, ECDSA_P256, client_verify()), UNKNOWN),
    ):
        with pytest.raises(RefusedByGuard) as refused:
            ask()
        assert refused.value.code == code
    egress.socket.close()


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1())]
)
def test_other_curves_and_raw_payloads_sign(key: ec.EllipticCurvePrivateKey) -> None:
    scheme = {384: 0x0503, 521: 0x0603}[key.key_size]
    content_key, message = os.urandom(16), certificate_verify()
    with running_guard() as guard:
        guard.load(seal(private_key_secret(key)["pem"].encode(), content_key, raw=True), content_key)
        answer = guard.configure({"certificates": [claim("default", key)], "inject": []})
        worker = guard.edge()

        verify(key, scheme, worker.sign(1, scheme, message), message)

        assert answer["keys"][0]["algorithm"] == f"ecdsa-p{key.key_size}"
        assert "no sealed rules" in answer["warnings"][0]
        with pytest.raises(ControlFault, match="without rules"):
            guard.csr("default")
        worker.socket.close()


def test_rsa_3072_signs() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    content_key, message = os.urandom(32), certificate_verify()
    with running_guard() as guard:
        guard.load(seal(bundle({"tls": private_key_secret(key, {})}), content_key), content_key)
        guard.configure({"certificates": [claim("tls", key)], "inject": []})
        worker = guard.edge()

        verify(key, PSS_SHA256, worker.sign(1, PSS_SHA256, message), message)

        worker.socket.close()


def test_key_with_the_role_client_signs_for_egress_and_as_a_client_only() -> None:
    key, content_key = new_key("p256"), os.urandom(32)
    secret = private_key_secret(key, {"roles": ["client"]})
    with running_guard() as guard:
        guard.load(seal(bundle({"login": secret}), content_key), content_key)
        answer = guard.configure({"certificates": [], "clients": [claim("login", key, [])], "inject": []})
        edge, egress, message = guard.edge(), guard.egress(), client_verify()

        verify(key, ECDSA_P256, egress.sign(1, ECDSA_P256, message), message)

        assert answer["keys"][0]["name"] == "login"
        for worker, wrong, code in (
            (egress, certificate_verify(), CONTEXT),
            (egress, server_key_exchange(), CONTEXT),
            (edge, message, UNKNOWN),
            (edge, certificate_verify(), UNKNOWN),
        ):
            with pytest.raises(RefusedByGuard) as refused:
                worker.sign(1, ECDSA_P256, wrong)
            assert refused.value.code == code
        with pytest.raises(ControlFault, match="role server"):
            guard.configure({"certificates": [claim("login", key)], "inject": []})
        edge.socket.close()
        egress.socket.close()


@pytest.mark.parametrize("use", [None, USE, {"roles": ["csr"]}])
def test_key_without_the_role_client_is_no_login(use: dict[str, Any] | None) -> None:
    key, content_key = new_key("p256"), os.urandom(32)
    with running_guard() as guard:
        guard.load(seal(bundle({"tls": private_key_secret(key, use)}), content_key), content_key)
        with pytest.raises(ControlFault, match="role client") as refused:
            guard.configure({"certificates": [], "clients": [claim("tls", key)], "inject": []})

        assert refused.value.kind == "rules"
