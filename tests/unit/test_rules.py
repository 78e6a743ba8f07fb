"""Sealed rules from flags and files."""

from pathlib import Path

import pytest
import trustme
from support.secrets import secret

from unlatch.bootstrap import jose, rules
from unlatch.errors import ConfigError
from unlatch.memguard._native import BundleWriter


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.write_to_path(file)
    return file


def test_flags_become_rules_that_guard_reads(ca: Path) -> None:
    digest = rules.ca_digests(ca)[0]

    found = rules.token_rules(
        upstream="https://API.psp.example",
        callers=["anyone", "10.2.0.0/16", "uid=1000", f"ca={ca},san=shop", f"ca={ca}"],
        ca_files=[ca],
        methods=["post"],
        paths=["/v1/*"],
    )

    assert found == {
        "upstream": "https://api.psp.example:443",
        "ca": [digest],
        "methods": ["POST"],
        "paths": ["/v1/*"],
        "place": {"header": "Authorization", "scheme": "bearer"},
        "callers": ["anyone", "10.2.0.0/16", {"uid": 1000}, {"ca": digest, "san": "shop"}, {"ca": digest}],
    }
    BundleWriter().add_token("psp", secret(b"token"), jose.write_json(found))


def test_ca_digest_is_that_of_openssl(ca: Path) -> None:
    import hashlib

    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = x509.load_pem_x509_certificate(ca.read_bytes()).public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    assert rules.ca_digests(ca) == [jose.encode(hashlib.sha256(spki).digest())]


@pytest.mark.parametrize(
    "upstream",
    [
        "http://api.example",
        "api.example",
        "https://",
        "https://a/b",
        "https://u@a",
        "https://a?x",
        "https://a:b",
    ],
)
def test_upstream_that_is_no_https_origin_is_refused(upstream: str) -> None:
    with pytest.raises(ConfigError, match="upstream"):
        rules.token_rules(upstream=upstream, callers=["anyone"])


def test_address_as_upstream_keeps_its_brackets() -> None:
    assert (
        rules.token_rules(upstream="https://[::1]:8443", callers=["anyone"])["upstream"]
        == "https://[::1]:8443"
    )


@pytest.mark.parametrize("caller", ["everyone", "10.0.0.1/8", "uid=root", "ca=missing.pem", "ca=x,dns=y", ""])
def test_caller_that_is_nobody_is_refused(caller: str) -> None:
    with pytest.raises(ConfigError):
        rules.token_rules(upstream="https://a", callers=[caller])


def test_token_without_callers_is_refused() -> None:
    with pytest.raises(ConfigError, match="caller"):
        rules.token_rules(upstream="https://a", callers=[])


def test_file_rules_may_name_certificates(ca: Path) -> None:
    digest = rules.ca_digests(ca)[0]
    given = {"upstream": "https://a:443", "ca": "ca.pem", "callers": ["anyone", {"ca": "ca.pem", "san": "x"}]}

    assert rules.read_rules(given, folder=ca.parent) == {
        "upstream": "https://a:443",
        "ca": [digest],
        "callers": ["anyone", {"ca": digest, "san": "x"}],
    }


def test_digest_in_a_file_is_kept(ca: Path) -> None:
    digest = rules.ca_digests(ca)[0]

    assert rules.read_rules({"ca": digest}, folder=Path("/nowhere"))["ca"] == [digest]


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"upstream":"https://a:443","callers":[]}',
        b'{"upstream":"https://a:443","callers":["anyone"],"method":["GET"]}',
        b'{"upstream":"https://a:443","callers":["anyone"],"upstream":"https://b:443"}',
        b"[]",
        b"",
    ],
)
def test_rules_that_guard_would_not_read_are_refused_at_sealing(text: bytes) -> None:
    with pytest.raises(ConfigError, match="use"):
        BundleWriter().add_token("psp", secret(b"token"), text)
