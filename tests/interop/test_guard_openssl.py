"""OpenSSL accepts what guard signs."""

import os
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from support.guard_client import bundle, private_key_secret, running_guard, seal
from support.pki import PrivateKey, new_key

pytestmark = pytest.mark.interop

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
