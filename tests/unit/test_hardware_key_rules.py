"""Rules of keys that stay in their hardware, as they are sealed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.pki import Authority, new_key

from unlatch.bootstrap import bundling, jose, rules
from unlatch.bootstrap.bundling import Ingredient
from unlatch.errors import ConfigError
from unlatch.memguard._native import Bundle

KEY = new_key("p256")
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
USE = rules.key_rules(["Pay.example"], ["server"])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The same key as certificate, request and public key."""
    chain = Authority(tmp_path).issue(tmp_path / "site.pem", ["pay.example"], KEY.public_key())
    request, public = tmp_path / "site.csr", tmp_path / "site.pub"
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(KEY, hashes.SHA256())
    request.write_bytes(csr.public_bytes(Encoding.PEM))
    public.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return {"certificate": chain, "request": request, "public key": public}


@pytest.mark.parametrize("form", ["certificate", "request", "public key"])
def test_key_is_named_by_its_public_half(files: dict[str, Path], form: str) -> None:
    assert bundling.spki_sha256(files[form]) == hashlib.sha256(SPKI).digest()


def test_bundle_says_what_the_key_is_for_and_holds_no_secret(files: dict[str, Path]) -> None:
    one = Ingredient("site", "hardware-key", str(files["certificate"]), USE)
    bundle = Bundle(bundling.mix([one]).payload)
    described = jose.read_json(bundle.describe())

    assert one.label == "hardware-key"
    assert isinstance(described, dict)
    assert described["secrets"] == [
        {
            "name": "site",
            "kind": "hardware-key",
            "algorithm": None,
            "use": {"names": ["pay.example"], "roles": ["server"]},
            "unbound": False,
        }
    ]
    with pytest.raises(ConfigError):
        bundle.secret("site")


@pytest.mark.parametrize("roles", [["server", "csr"], ["client"], ["jwt"]])
def test_other_roles_than_server_are_refused(files: dict[str, Path], roles: list[str]) -> None:
    use = rules.key_rules(["pay.example"], roles)
    with pytest.raises(ConfigError, match=r"site: "):
        bundling.mix([Ingredient("site", "hardware-key", str(files["request"]), use)])


@pytest.mark.parametrize(
    "content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_file_without_a_public_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "site.pem").write_bytes(content)
    with pytest.raises(ConfigError, match="no certificate, certificate request or public key"):
        bundling.spki_sha256(tmp_path / "site.pem")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read: No such file or directory, .*site\.pem"):
        bundling.spki_sha256(tmp_path / "site.pem")
