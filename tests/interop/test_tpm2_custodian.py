"""A custodian with a software TPM, and key files shared with OpenSSL's tpm2 provider, both ways."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from support.custodian_process import TLS12, Custodian, CustodianRefusedError, tls13, verified
from support.swtpm import Swtpm

from unlatch.memguard.custodian import keyfile, tpm_public
from unlatch.memguard.custodian.keyfile import TpmKey
from unlatch.memguard.custodian.protocol import Refusal
from unlatch.memguard.custodian.tpm_keys import make_key

pytestmark = pytest.mark.interop

OPENSSL = {"p256": ("EC", "group:P-256"), "p384": ("EC", "group:P-384"), "rsa": ("RSA", "bits:2048")}
OWN = {"p256": "ecc", "p384": "ecc384", "rsa": "rsa"}
OWN_SCHEME = {"p256": 0x0403, "p384": 0x0503, "rsa": 0x0804}


@pytest.fixture(scope="module")
def tpm() -> Iterator[Swtpm]:
    with Swtpm() as running:
        yield running


@pytest.fixture(scope="module")
def files(tpm: Swtpm) -> dict[str, str]:
    """Key files, made by OpenSSL and by us."""
    made = {
        f"openssl-{name}": tpm.run(
            "openssl", "genpkey", "-provider", "tpm2", "-algorithm", kind, "-pkeyopt", option
        ).decode()
        for name, (kind, option) in OPENSSL.items()
    }
    return made | {
        f"own-{name}": keyfile.write_tpm(make_key(kind, tcti=tpm.tcti)).decode() for name, kind in OWN.items()
    }


def started(tpm: Swtpm, files: dict[str, str], **changed: Any) -> Custodian:
    keys = [{"id": at, "name": name, "pem": pem} for at, (name, pem) in enumerate(files.items(), start=1)]
    return Custodian({"kind": "tpm2", "tcti": tpm.tcti, "keys": keys, "sockets": "network"} | changed)


def test_keys_of_both_makers_sign_every_scheme(tpm: Swtpm, files: dict[str, str]) -> None:
    with started(tpm, files) as custodian:
        custodian.wait_for("ready")
        found = custodian.keys()

        assert found.keys() == files.keys()
        for name, key in found.items():
            for scheme in key["schemes"]:
                verified(key, scheme, TLS12, custodian.sign(key["id"], scheme, TLS12))
            scheme = OWN_SCHEME[name.rpartition("-")[2]]
            verified(key, scheme, tls13(), custodian.sign(key["id"], scheme, tls13()))
    assert tpm.leaks() == []


def test_rsa_keys_sign_pss_with_the_salt_that_tls_wants(tpm: Swtpm, files: dict[str, str]) -> None:
    with started(tpm, files) as custodian:
        custodian.wait_for("ready")

        assert {0x0804, 0x0805, 0x0806, 0x0401} <= set(custodian.keys()["own-rsa"]["schemes"])


@pytest.mark.parametrize("name", OWN)
def test_openssl_signs_with_our_key_files(
    tpm: Swtpm, files: dict[str, str], name: str, tmp_path: Path
) -> None:
    key, message, signature = (tmp_path / part for part in ("key.pem", "message", "signature"))
    key.write_text(files[f"own-{name}"])
    message.write_bytes(b"from openssl")
    provider = ("-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2")
    tpm.run("openssl", "dgst", *provider, "-sha256", "-sign", key, "-out", signature, message)

    public: Any = load_pem_public_key(tpm.run("openssl", "pkey", *provider[:4], "-in", key, "-pubout"))

    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature.read_bytes(), b"from openssl", ec.ECDSA(hashes.SHA256()))
    else:
        from cryptography.hazmat.primitives.asymmetric import padding

        public.verify(signature.read_bytes(), b"from openssl", padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize("name", OPENSSL)
def test_both_read_the_same_public_key(tpm: Swtpm, files: dict[str, str], name: str, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text(files[f"openssl-{name}"])
    theirs = load_pem_public_key(
        tpm.run("openssl", "pkey", "-provider", "tpm2", "-provider", "default", "-in", key, "-pubout")
    )
    parsed = keyfile.find(key.read_bytes())
    assert isinstance(parsed, TpmKey)

    ours = tpm_public.public_key_of(parsed.public)

    der = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert ours.public_bytes(*der) == theirs.public_bytes(*der)


def test_certificate_file_of_openssl_s_server_is_found(files: dict[str, str]) -> None:
    chain = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"

    assert isinstance(keyfile.find((chain + files["own-p256"]).encode()), TpmKey)


def test_key_under_a_persistent_parent_signs(tpm: Swtpm, tmp_path: Path) -> None:
    context = tmp_path / "parent.ctx"
    tpm.run("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", context)
    tpm.run("tpm2_evictcontrol", "-C", "o", "-c", context, "0x81000007")
    tpm.run("tpm2_flushcontext", "-t")
    pem = keyfile.write_tpm(make_key("ecc", tcti=tpm.tcti, parent=0x81000007)).decode()
    try:
        with started(tpm, {"persistent": pem}) as custodian:
            custodian.wait_for("ready")
            verified(custodian.keys()["persistent"], 0x0403, tls13(), custodian.sign(1, 0x0403, tls13()))
    finally:
        tpm.run("tpm2_evictcontrol", "-C", "o", "-c", "0x81000007")


def test_key_of_another_tpm_is_named_and_others_go_on(tpm: Swtpm, files: dict[str, str]) -> None:
    with Swtpm() as other:
        foreign = keyfile.write_tpm(make_key("ecc", tcti=other.tcti)).decode()
    with started(tpm, {"foreign": foreign, "good": files["own-p256"]}) as custodian:
        custodian.wait_for("ready")

        assert [one["name"] for one in custodian.status()["missing"]] == ["foreign"]
        verified(custodian.keys()["good"], 0x0403, tls13(), custodian.sign(2, 0x0403, tls13()))


def test_key_with_a_password_is_refused(tpm: Swtpm, files: dict[str, str]) -> None:
    key = keyfile.find(files["own-p256"].encode())
    assert isinstance(key, TpmKey)
    locked = keyfile.write_tpm(TpmKey(key.parent, key.public, key.private, needs_password=True)).decode()
    with started(tpm, {"locked": locked}) as custodian:
        custodian.wait_for("ready")

        assert "password" in custodian.status()["missing"][0]["reason"]


def test_tpm_that_goes_away_is_found_again(files: dict[str, str]) -> None:
    with Swtpm() as own:
        pem = keyfile.write_tpm(make_key("ecc", tcti=own.tcti)).decode()
        with started(own, {"site": pem}) as custodian:
            custodian.wait_for("ready")
            key = custodian.keys()["site"]
            own.stop()
            with pytest.raises(CustodianRefusedError) as caught:
                custodian.sign(1, 0x0403, tls13())
            assert caught.value.reason in (Refusal.LOST, Refusal.TOO_SLOW)
            custodian.wait_for("lost")
            own.start()
            custodian.wait_for("ready")

            verified(key, 0x0403, tls13(), custodian.sign(1, 0x0403, tls13()))


def test_raw_tpm_is_free_for_others_while_idle(tpm: Swtpm, files: dict[str, str]) -> None:
    with started(tpm, files) as custodian:
        custodian.wait_for("ready")
        for at in range(60):
            custodian.sign(1, 0x0403, tls13(str(at)))

        while tpm.leaks():  # asks the TPM while the custodian runs, until it has let go
            pass
        custodian.sign(1, 0x0403, tls13())


def test_keys_that_another_program_flushed_are_loaded_again(tpm: Swtpm, files: dict[str, str]) -> None:
    with started(tpm, {"one": files["own-p256"]}) as custodian:
        custodian.wait_for("ready")
        for at in range(10):
            custodian.sign(1, 0x0403, tls13(str(at)))
            tpm.run("tpm2_flushcontext", "-t")


def test_described_key_is_that_of_the_file(tpm: Swtpm, files: dict[str, str]) -> None:
    with started(tpm, {"one": files["own-p384"]}) as custodian:
        custodian.wait_for("ready")
        described: Any = load_der_public_key(bytes.fromhex(custodian.keys()["one"]["spki"]))
    key = keyfile.find(files["own-p384"].encode())
    assert isinstance(key, TpmKey)

    assert described == tpm_public.public_key_of(key.public)
