"""The pkcs11 pin with SoftHSM 2: clevis 22's files, and ours."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pkcs11_child import unlatch
from support.softhsm import MODULE, PIN, SoftHsm
from support.tangd import Tangd
from support.vectors import load, named

from unlatch.bootstrap import jose
from unlatch.bootstrap.sealed import SealedFile

pytestmark = pytest.mark.interop

VECTORS = load("clevis_pkcs11")
FILES = [vector for vector in VECTORS["vectors"] if "jwe" in vector]
URI = f"pkcs11:token=prod;object=wrap;type=private?module-path={MODULE}"


@pytest.fixture(scope="module")
def hsm() -> Iterator[SoftHsm]:
    with SoftHsm() as tokens:
        tokens.add_token("prod")
        tokens.make_key("prod", "rsa:2048", "wrap", "01")
        tokens.make_key("prod", "rsa:2048", "other", "02")
        tokens.make_key("prod", "EC:prime256v1", "ec", "03")
        yield tokens


@pytest.fixture(scope="module")
def old_hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """The token of the vectors."""
    with SoftHsm() as tokens:
        tokens.add_token("clevis vectors", pin="123456")
        pem = tmp_path_factory.mktemp("key") / "rsa.pem"
        pem.write_text(VECTORS["rsa_private_key_pem"])
        tokens.run("softhsm2-util", "--import", pem, "--token", "clevis vectors", "--label", "rsa2048", "--id", "01",
                   "--pin", "123456")  # fmt: skip
        yield tokens


@pytest.fixture
def pin(tmp_path: Path) -> Path:
    path = tmp_path / "pin"
    path.write_text(PIN + "\n")
    path.chmod(0o600)
    return path


def seal(hsm: SoftHsm, out: Path, *arguments: str, pin: Path | None = None) -> tuple[int, str]:
    code, _, err = unlatch(
        hsm, "seal", *arguments, "--token", "psp=fd:0", "--unbound", "--out", out, data=b"hello", pin=pin
    )
    return code, err


@pytest.mark.parametrize(
    "vector",
    [one for one in named(FILES, "desc") if "no pin-value" not in one.id and "wrong PIN" not in one.id],
)
def test_what_clevis_sealed_opens_even_where_clevis_fails(old_hsm: SoftHsm, vector: dict[str, Any]) -> None:
    code, out, err = unlatch(old_hsm, "clevis", "decrypt", data=vector["jwe"].encode())

    assert code == 0, err
    assert out == jose.decode(vector["plaintext_b64"].rstrip("="))


def test_file_without_a_pin_gets_it_from_outside(old_hsm: SoftHsm, tmp_path: Path) -> None:
    jwe = next(one for one in FILES if "no pin-value" in one["desc"])["jwe"].encode()
    pin = tmp_path / "pin"
    pin.write_text("123456")

    code, _, err = unlatch(old_hsm, "clevis", "decrypt", data=jwe)
    assert code == 1
    assert "no PIN for pkcs11:" in err
    assert unlatch(old_hsm, "clevis", "decrypt", data=jwe, pin=pin)[:2] == (0, b"p11 vector")


def test_wrong_pin_is_said_and_tried_once(old_hsm: SoftHsm) -> None:
    jwe = next(one for one in FILES if "wrong PIN" in one["desc"])["jwe"].encode()

    code, _, err = unlatch(old_hsm, "clevis", "decrypt", data=jwe)

    assert code == 1
    assert "the PIN is wrong" in err
    assert "999999" not in err


def test_sealing_needs_no_pin_and_opening_does(hsm: SoftHsm, tmp_path: Path, pin: Path) -> None:
    out = tmp_path / "pay.jwe"
    code, err = seal(hsm, out, "--pkcs11", URI)
    assert code == 0, err
    assert "clevis decrypt cannot open" in err

    assert unlatch(hsm, "open", out)[0] == 21
    assert unlatch(hsm, "open", out, pin=pin)[:2] == (0, b"hello")


def test_pin_is_never_stored(hsm: SoftHsm, tmp_path: Path, pin: Path) -> None:
    out = tmp_path / "pay.jwe"

    code, err = seal(hsm, out, "--pkcs11", f"{URI}&pin-value={PIN}")

    assert code == 0, err
    header = SealedFile.parse(out.read_bytes()).header_json
    assert PIN.encode() not in header
    assert unlatch(hsm, "open", out, pin=pin)[1] == b"hello"


def test_file_in_the_form_of_clevis_is_written_when_asked(hsm: SoftHsm, tmp_path: Path, pin: Path) -> None:
    out = tmp_path / "pay.jwe"
    code, err = seal(hsm, out, "--policy", json.dumps({"uri": URI, "mechanism": "RSA-PKCS"}))
    assert code == 0, err

    clevis = SealedFile.parse(out.read_bytes()).header["clevis"]
    assert isinstance(clevis, dict)
    assert clevis["pin"] == "pkcs11"
    wrapped = tmp_path / "key"
    wrapped.write_bytes(jose.decode(clevis["pkcs11"]["key"]))
    # What clevis 22's decryption runs:
    jwk = hsm.tool("prod", "--decrypt", "-m", "RSA-PKCS", "--id", "01", "--input-file", wrapped)
    assert json.loads(jwk)["kty"] == "oct"
    assert unlatch(hsm, "open", out, pin=pin)[:2] == (0, b"hello")


def test_token_and_a_person_are_both_needed(hsm: SoftHsm, tangd: Tangd, tmp_path: Path, pin: Path) -> None:
    out = tmp_path / "pay.jwe"
    code, err = seal(hsm, out, "--to", tangd.url, "--thp", tangd.thumbprint, "--pkcs11", URI)
    assert code == 0, err

    assert unlatch(hsm, "open", out, pin=pin)[:2] == (0, b"hello")
    assert unlatch(hsm, "open", out)[0] == 21


def test_key_that_was_replaced_is_named(hsm: SoftHsm, tmp_path: Path, pin: Path) -> None:
    hsm.make_key("prod", "rsa:2048", "short-lived", "0a")
    out = tmp_path / "pay.jwe"
    uri = URI.replace("object=wrap", "object=short-lived")
    assert seal(hsm, out, "--pkcs11", uri)[0] == 0
    for kind in ("privkey", "pubkey"):
        hsm.tool("prod", "--delete-object", "--type", kind, "--id", "0a")
    hsm.make_key("prod", "rsa:2048", "short-lived", "0a")

    code, _, err = unlatch(hsm, "open", out, pin=pin)

    assert code == 18
    assert "replaced since sealing" in err


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (f"pkcs11:token=absent;object=wrap?module-path={MODULE}", "no token fits"),
        (f"pkcs11:token=prod;object=absent?module-path={MODULE}", "no RSA key"),
        (f"pkcs11:token=prod;object=ec?module-path={MODULE}", "no RSA key"),
        (f"pkcs11:token=prod?module-path={MODULE}", "RSA keys"),
        ("pkcs11:token=prod?module-path=/usr/lib/absent.so", "no PKCS#11 module"),
        ("pkcs11:token=prod?module-path=libabsent.so", "no PKCS#11 module"),
        ("pkcs11:token=prod?module-path=/usr/lib/x86_64-linux-gnu/libz.so.1", "cannot be loaded"),
        ("pkcs11:token=prod?module-path=/etc/hostname", "cannot be loaded"),
    ],
)
def test_what_cannot_be_sealed_to_is_named(
    hsm: SoftHsm, tmp_path: Path, pin: Path, uri: str, message: str
) -> None:
    code, err = seal(hsm, tmp_path / "pay.jwe", "--pkcs11", uri, pin=pin)

    assert code in (15, 21)
    assert message in err
    assert not (tmp_path / "pay.jwe").exists()


def test_library_that_others_may_change_is_not_loaded(hsm: SoftHsm, tmp_path: Path) -> None:
    module = tmp_path / "softhsm.so"
    module.write_bytes(MODULE.read_bytes())
    module.chmod(0o666)

    code, err = seal(hsm, tmp_path / "pay.jwe", "--pkcs11", f"pkcs11:token=prod?module-path={module}")

    assert code == 21
    assert "others may change" in err


def test_inspect_says_what_must_be_there(hsm: SoftHsm, tmp_path: Path) -> None:
    out = tmp_path / "pay.jwe"
    assert seal(hsm, out, "--pkcs11", URI)[0] == 0

    told = unlatch(hsm, "inspect", out)[1].decode()

    assert "token prod is there and gets its PIN" in told
    assert "clevis decrypt does not open it" in told


def test_inspect_warns_of_a_pin_in_clear(hsm: SoftHsm, tmp_path: Path) -> None:
    file = tmp_path / "old.jwe"
    file.write_text(FILES[0]["jwe"])

    told = unlatch(hsm, "inspect", file)[1].decode()

    assert "PIN stands in clear" in told
    assert "123456" not in told
