"""OpenSSL accepts what guard signs."""

import os
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from support.guard_client import (
    base64url,
    bundle,
    certificate_verify,
    private_key_secret,
    running_guard,
    seal,
    spki,
)
from support.pki import PrivateKey, new_key

pytestmark = pytest.mark.interop

# By each kind of key. Once, before a release: UNLATCH_SIGNATURES=100000.
SIGNATURES = int(os.environ.get("UNLATCH_SIGNATURES", "500"))
SCHEMES = {"p256": 0x0403, "p384": 0x0503, "p521": 0x0603, "ed25519": 0x0807, "rsa": 0x0804}
KEYS: dict[str, PrivateKey] = {
    "p256": new_key("p256"),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": new_key("ed25519"),
    "rsa": new_key("rsa"),
}


@pytest.fixture(scope="module")
def requests() -> dict[str, bytes]:
    use = {"names": ["pay.example", "192.0.2.1"], "roles": ["server", "csr"]}
    secrets = {name: private_key_secret(key, use) for name, key in KEYS.items()}
    content_key = os.urandom(32)
    with running_guard() as guard:
        guard.load(seal(bundle(secrets), content_key), content_key)
        return {name: guard.csr(name) for name in KEYS}


def openssl(*arguments: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, timeout=60)


@pytest.mark.parametrize("kind", KEYS)
def test_request_is_verified_by_openssl(requests: dict[str, bytes], kind: str) -> None:
    done = openssl("req", "-verify", "-noout", "-text", data=requests[kind])

    assert done.returncode == 0, done.stderr.decode()
    assert b"verify OK" in done.stderr
    assert b"DNS:pay.example, IP Address:192.0.2.1" in done.stdout


@pytest.mark.parametrize("kind", KEYS)
def test_changed_request_is_refused_by_openssl(requests: dict[str, bytes], kind: str) -> None:
    lines = requests[kind].splitlines()
    lines[-2] = lines[-2][:4] + (b"AAAA" if lines[-2][4:8] != b"AAAA" else b"BBBB") + lines[-2][8:]

    done = openssl("req", "-verify", "-noout", data=b"\n".join(lines) + b"\n")

    assert b"verify OK" not in done.stderr


def verify(key: PrivateKey, signature: bytes, message: bytes) -> None:
    """By OpenSSL, through the cryptography package."""
    public = key.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        digest = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[public.key_size]
        public.verify(signature, message, ec.ECDSA(digest))
    elif isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    else:
        public.verify(signature, message)


@pytest.mark.timeout(SIGNATURES // 50 + 120)
@pytest.mark.parametrize(("kind", "never_joined"), [*((kind, False) for kind in SCHEMES), ("rsa", True)])
def test_many_signatures_are_verified_by_openssl(kind: str, never_joined: bool) -> None:
    key, content_key = KEYS[kind], os.urandom(32)
    claim = {"where": "w", "key": "tls", "spki": base64url(spki(key)), "names": ["pay.example"]}
    with running_guard() as guard:
        # Parts change beneath the signatures.
        guard.settings(reshare_ms=100, never_joined=["tls"] if never_joined else [])
        guard.load(seal(bundle({"tls": private_key_secret(key, {})}), content_key), content_key)
        guard.configure({"certificates": [claim], "inject": []})
        worker = guard.edge()
        for _ in range(SIGNATURES // 10 if never_joined else SIGNATURES):
            message = certificate_verify()
            verify(key, worker.sign(1, SCHEMES[kind], message), message)
        worker.socket.close()
