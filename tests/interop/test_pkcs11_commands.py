"""unlatch hsm, with SoftHSM 2."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from support.pkcs11_child import unlatch
from support.softhsm import MODULE, PIN, SoftHsm

from unlatch.memguard.custodian import keyfile
from unlatch.memguard.custodian.keyfile import TokenKey

pytestmark = pytest.mark.interop

KINDS = ["ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048"]


@pytest.fixture(scope="module")
def hsm() -> Iterator[SoftHsm]:
    with SoftHsm() as tokens:
        tokens.add_token("prod")
        tokens.add_token("spare one")
        yield tokens


@pytest.fixture
def pin(tmp_path: Path) -> Path:
    path = tmp_path / "pin"
    path.write_text(PIN)
    return path


def uri(name: str, token: str = "prod") -> str:
    return f"pkcs11:token={token};object={name};type=private?module-path={MODULE}"


@pytest.mark.parametrize("kind", KINDS)
def test_key_is_made_checked_and_gets_a_request(hsm: SoftHsm, tmp_path: Path, pin: Path, kind: str) -> None:
    name = uri(f"made-{kind}")
    code, out, err = unlatch(hsm, "hsm", "make-key", name, "--kind", kind, pin=pin)
    assert (code, out.decode().strip()) == (0, name), err

    code, out, err = unlatch(hsm, "hsm", "check", name, pin=pin)
    assert code == 0, out.decode() + err
    assert "signs TLS schemes" in out.decode()

    file = tmp_path / "site.csr"
    code, _, err = unlatch(
        hsm, "hsm", "csr", name, "--names", "pay.example,*.pay.example,192.0.2.1", "--out", file, pin=pin
    )
    assert code == 0, err
    request = x509.load_pem_x509_csr(file.read_bytes())
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=pay.example"
    assert names.get_values_for_type(x509.DNSName) == ["pay.example", "*.pay.example"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1"]
    assert b"verify OK" in hsm.run("sh", "-c", f"openssl req -verify -noout -in {file} 2>&1")


def test_made_key_does_not_leave_its_token(hsm: SoftHsm, pin: Path) -> None:
    assert unlatch(hsm, "hsm", "make-key", uri("stays"), pin=pin)[0] == 0

    told = hsm.tool("prod", "-O", "--type", "privkey", "--label", "stays").decode()

    assert "never extractable" in told
    assert "sensitive" in told


def test_name_that_is_taken_is_refused(hsm: SoftHsm, pin: Path) -> None:
    assert unlatch(hsm, "hsm", "make-key", uri("twice"), pin=pin)[0] == 0

    code, _, err = unlatch(hsm, "hsm", "make-key", uri("twice"), pin=pin)

    assert code == 21
    assert "already" in err


def test_list_names_keys_so_that_check_takes_them(hsm: SoftHsm, pin: Path) -> None:
    assert unlatch(hsm, "hsm", "make-key", uri("listed", "spare%20one"), pin=pin)[0] == 0

    code, out, err = unlatch(
        hsm, "hsm", "list", f"pkcs11:token=spare%20one?module-path={MODULE}", "--login", "--json", pin=pin
    )
    assert code == 0, err
    (token,) = json.loads(out)
    (private,) = (key for key in token["keys"] if key["kind"] == "private")

    assert token["label"] == "spare one"
    assert private["algorithm"] == "ecdsa-p256"
    assert unlatch(hsm, "hsm", "check", private["uri"], pin=pin)[0] == 0


def test_list_without_a_pin_shows_public_keys_only(hsm: SoftHsm) -> None:
    out = unlatch(hsm, "hsm", "list", f"pkcs11:?module-path={MODULE}")[1].decode()

    assert "prod" in out
    assert "  private" not in out


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (f"pkcs11:token=prod;label=x?module-path={MODULE}", 22, "RFC 7512 calls it object="),
        (f"pkcs11:token=prod;object=absent;type=private?module-path={MODULE}", 22, "has no private key"),
        (f"pkcs11:token=gone;object=x;type=private?module-path={MODULE}", 22, "no token fits"),
        ("pkcs11:token=prod;object=x;type=private?module-path=/gone.so", 22, "no PKCS#11 module"),
        (f"pkcs11:token=prod;object=checked?module-path={MODULE}", 23, "type=private is missing"),
    ],
)
def test_check_names_what_is_wrong(hsm: SoftHsm, pin: Path, text: str, code: int, message: str) -> None:
    unlatch(hsm, "hsm", "make-key", uri("checked"), pin=pin)

    got, out, err = unlatch(hsm, "hsm", "check", text, pin=pin)

    assert message in out.decode(), err
    assert got == code


def test_wrong_pin_is_said_once(hsm: SoftHsm, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("999999")

    code, out, _ = unlatch(hsm, "hsm", "check", uri("checked"), pin=wrong)

    assert code == 22
    assert "the PIN is wrong" in out.decode()
    assert "999999" not in out.decode()


def test_pem_is_written_without_a_pin(hsm: SoftHsm, tmp_path: Path) -> None:
    file = tmp_path / "site.pem"

    assert unlatch(hsm, "hsm", "pem", f"{uri('site')}&pin-value=hush", "--out", file)[0] == 0

    key = keyfile.find(file.read_bytes())
    assert isinstance(key, TokenKey)
    assert key.uri.object == "site"
    assert key.uri.pin_value is None


@pytest.mark.parametrize("names", ["", "a b", "-x.example", "a..b", "*.*.example", "x" * 64 + ".example"])
def test_names_that_are_none_are_refused(hsm: SoftHsm, tmp_path: Path, pin: Path, names: str) -> None:
    unlatch(hsm, "hsm", "make-key", uri("checked"), pin=pin)

    code, _, err = unlatch(
        hsm, "hsm", "csr", uri("checked"), "--names", names, "--out", tmp_path / "x", pin=pin
    )

    assert code == 21
    assert "not a DNS name" in err
