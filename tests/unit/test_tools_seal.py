"""seal, inspect, open and recovery, against a server in memory behind a loopback port."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_tang import FakeTang
from support.scripted_http import Answer, Asked, ScriptedServer

from unlatch.__main__ import run
from unlatch.bootstrap import jose, rules

TANG = FakeTang(signers=1)
TANG_KID = jose.thumbprint(TANG.exchange_public)


def serve(asked: Asked) -> Answer:
    prefix, _, _ = asked.path.partition("/adv/")
    if asked.method == "GET" and prefix in ("", "/s/pay"):
        return Answer(TANG.advertisement())
    kid = asked.path.rpartition("/")[2]
    if asked.method == "POST" and kid == TANG_KID:
        return Answer(TANG.recover(url="", kid=kid, request=asked.body, thumbprint="", signing_keys=()))
    return Answer(status=404)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ScriptedServer(serve) as server:
        yield server.url


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


class Shell:
    """Runs commands in this process and keeps what they wrote."""

    def __init__(self, capture: pytest.CaptureFixture[bytes]) -> None:
        self._capture = capture
        self.out, self.err = b"", ""

    def __call__(self, *arguments: str) -> int:
        code = run(list(arguments))
        captured = self._capture.readouterr()
        self.out, self.err = captured.out, captured.err.decode()
        return code


@pytest.fixture
def unlatch(capfdbinary: pytest.CaptureFixture[bytes]) -> Shell:
    return Shell(capfdbinary)


def pinned(url: str) -> list[str]:
    return ["seal", "--to", url, "--thp", TANG.thumbprint, "--out", "pay.jwe"]


TLS = ["--generate", "tls", "--names", "pay.example,*.pay.example"]


def token(tmp_path: Path, value: str = "s3cr3t\n") -> str:
    (tmp_path / "token").write_text(value)
    return "psp=@token"


def test_bundle_is_sealed_and_opens_again(unlatch: Shell, url: str, tmp_path: Path) -> None:
    code = unlatch(
        *pinned(f"{url}/s/pay"), *TLS, "--token", token(tmp_path), "--upstream", "https://api.psp.example",
        "--caller", "10.2.0.0/16", "--path", "/v1/*", "--label", "team=payments",
    )  # fmt: skip
    assert (code, unlatch.out) == (0, b"")
    assert stat.S_IMODE(Path("pay.jwe").stat().st_mode) == 0o600
    assert Path("pay.tls.csr").read_text().startswith("-----BEGIN CERTIFICATE REQUEST-----")
    for line in ("unlatch inspect pay.jwe", "unlatch open pay.jwe --secret tls --out FILE", TANG.thumbprint):
        assert line in unlatch.err

    assert unlatch("open", "pay.jwe", "--secret", "psp") == 0
    assert unlatch.out == b"s3cr3t"


def test_generated_key_fits_its_request_and_names(unlatch: Shell, url: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    assert unlatch(*pinned(url), *TLS) == 0
    assert unlatch("open", "pay.jwe", "--out", "tls.pem") == 0

    request = x509.load_pem_x509_csr(Path("pay.tls.csr").read_bytes())
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    key = load_pem_private_key(Path("tls.pem").read_bytes(), None)
    assert names.get_values_for_type(x509.DNSName) == ["pay.example", "*.pay.example"]
    assert request.is_signature_valid
    assert key.public_key() == request.public_key()
    assert stat.S_IMODE(Path("tls.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ed25519", "rsa-2048"])
def test_key_files_of_openssl_are_taken(unlatch: Shell, url: str, algorithm: str) -> None:
    from cryptography.hazmat.primitives import serialization as ser
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    makers: dict[str, Any] = {
        "ecdsa-p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    }
    key = makers[algorithm]()
    traditional = ser.PrivateFormat.PKCS8 if algorithm == "ed25519" else ser.PrivateFormat.TraditionalOpenSSL
    Path("key.pem").write_bytes(key.private_bytes(ser.Encoding.PEM, traditional, ser.NoEncryption()))

    assert unlatch(*pinned(url), "--key", "tls=key.pem", "--names", "a.example") == 0
    assert unlatch("open", "pay.jwe", "--out", "again.pem") == 0

    again = ser.load_pem_private_key(Path("again.pem").read_bytes(), None)
    assert again.public_key() == key.public_key()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to seal"),
        (["--key", "tls"], 2, "NAME=FILE"),
        (["--key", "tls=missing.pem", "--unbound"], 21, "missing.pem"),
        (["--generate", "tls"], 2, "tls has no sealed rules"),
        (["--generate", "tls:dsa", "--names", "a"], 21, "unknown algorithm"),
        (["--generate", "tls", "--names", "a b"], 21, "DNS name"),
        (["--generate", "tls", "--unbound"], 2, "needs names"),
        (["--token", "psp=sk_live_1"], 2, "never written on a command line"),
        (["--token", "psp=@token"], 2, "psp has no sealed rules"),
        (["--token", "psp=@token", "--upstream", "https://a"], 21, "at least one caller"),
        (["--token", "psp=@token", "--upstream", "http://a", "--caller", "anyone"], 21, "https://HOST"),
        (
            ["--token", "psp=@token", "--upstream", "https://a", "--caller", "anyone", "--path", "x"],
            21,
            "use",
        ),
        (["--token", "a b=@token", "--unbound"], 21, "name"),
        (["--token", "psp=fd:987654", "--unbound"], 21, "descriptor"),
        (["--token", "psp=@token", "--use", "missing.yaml"], 21, "missing.yaml"),
    ],
)
def test_wrong_ingredients_are_named_and_leave_no_file(
    unlatch: Shell, url: str, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    token(tmp_path)

    assert unlatch(*pinned(url), *arguments) == code

    assert message in unlatch.err
    assert "unlatch: hint:" in unlatch.err or code == 21
    assert [file.name for file in tmp_path.iterdir()] == ["token"]


def test_token_on_the_command_line_is_not_repeated(unlatch: Shell, url: str) -> None:
    unlatch(*pinned(url), "--token", "psp=sk_live_1")

    assert "sk_live_1" not in unlatch.err


def test_pin_is_sealed_for_one_token(unlatch: Shell, url: str, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("482913\n")
    uri = "pkcs11:token=prod;object=site;type=private?module-path=/usr/lib/softhsm/libsofthsm2.so"

    assert unlatch(*pinned(url), "--pin", "hsm=@pin", "--hardware", uri) == 0

    assert unlatch("open", "pay.jwe") == 0
    assert unlatch.out == b"482913"
    assert unlatch("inspect", "pay.jwe", "--json") == 0
    assert json.loads(unlatch.out)["unlatch"]["secrets"] == {"hsm": "pin"}
    token = "pkcs11:token=prod?module-path=/usr/lib/softhsm/libsofthsm2.so"
    assert rules.pin_rules(uri) == {"hardware": token}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--pin", "hsm=@pin"], 2, "--hardware"),
        (["--pin", "hsm=482913", "--hardware", "pkcs11:token=a"], 2, "never written on a command line"),
        (["--pin", "hsm=@pin", "--hardware", "pkcs11:token=a?pin-value=1"], 21, "carries a PIN"),
        (["--pin", "hsm=@pin", "--hardware", "token=a"], 21, ""),
        (["--pin", "hsm=@empty", "--hardware", "pkcs11:token=a"], 21, "PIN is empty"),
    ],
)
def test_pin_needs_its_token(
    unlatch: Shell, url: str, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "pin").write_text("482913")
    (tmp_path / "empty").write_text("")

    assert unlatch(*pinned(url), *arguments) == code

    assert message in unlatch.err
    assert "482913" not in unlatch.err


SIGN = "kind: hmac\nhash: sha256\nencoding: hex\nover: [time, method, path]\n"
JWT = "issuer: shop\naudience: https://api.psp.example\n"
TO_PSP = ["--upstream", "https://api.psp.example", "--caller", "anyone"]


def test_signing_secrets_client_keys_and_ticket_secrets_are_sealed(
    unlatch: Shell, url: str, tmp_path: Path
) -> None:
    (tmp_path / "sign.yaml").write_text(SIGN)
    (tmp_path / "jwt.yaml").write_text(JWT)
    token(tmp_path)
    for name, arguments, kind in (
        ("psp", ["--token", "psp=@token", *TO_PSP, "--sign", "sign.yaml"], "token"),
        ("robot", ["--generate", "robot", "--names", "robot", *TO_PSP, "--jwt", "jwt.yaml"], "private-key"),
        ("login", ["--generate", "login", "--names", "login", "--role", "client"], "private-key"),
        ("fleet", ["--tickets", "fleet"], "ticket-secret"),
    ):
        assert unlatch(*pinned(url), *arguments, "--force") == 0, unlatch.err
        assert unlatch("inspect", "pay.jwe", "--json") == 0
        assert json.loads(unlatch.out)["unlatch"]["secrets"] == {name: kind}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--token", "psp=@token", *TO_PSP, "--sign", "bad.yaml"], 21, "sha1"),
        (["--token", "psp=@token", *TO_PSP, "--sign", "missing.yaml"], 21, "cannot read"),
        (["--token", "psp=@token", *TO_PSP, "--sign", "list.yaml"], 21, "no mapping"),
        (
            ["--token", "psp=@token", *TO_PSP, "--sign", "sign.yaml", "--jwt", "jwt.yaml"],
            2,
            "--sign is for a token",
        ),
        (["--generate", "robot", "--names", "r", "--jwt", "jwt.yaml"], 2, "--upstream"),
        (["--generate", "robot", "--names", "r", *TO_PSP, "--jwt", "sign.yaml"], 21, "issuer"),
        (["--generate", "robot", "--names", "r", "--role", "root"], 2, "root"),
    ],
)
def test_rules_for_signing_that_make_no_sense_leave_no_file(
    unlatch: Shell, url: str, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "sign.yaml").write_text(SIGN)
    (tmp_path / "bad.yaml").write_text(SIGN.replace("sha256", "sha1"))
    (tmp_path / "list.yaml").write_text("[1]")
    (tmp_path / "jwt.yaml").write_text(JWT)
    token(tmp_path)

    assert unlatch(*pinned(url), *arguments) == code

    assert message in unlatch.err
    assert not Path("pay.jwe").exists()


def test_rules_of_signing_secrets_are_spelled_as_guard_reads_them(tmp_path: Path) -> None:
    from support.pki import Authority

    ca = Authority(tmp_path).path
    destination = rules.token_rules(upstream="https://a", callers=["anyone"], sign={"kind": "hmac"})
    from_file = rules.read_rules(
        {"roles": ["jwt"], "jwt": {"issuer": "me", "for": {"upstream": "https://a:443", "ca": "ca.pem"}}},
        folder=tmp_path,
    )

    assert destination["sign"] == {"kind": "hmac"}
    assert rules.jwt_rules([], {"issuer": "me"}, {"upstream": "u"}) == {
        "roles": ["jwt"],
        "jwt": {"issuer": "me", "for": {"upstream": "u"}},
    }
    assert from_file["jwt"] == {
        "issuer": "me",
        "for": {"upstream": "https://a:443", "ca": rules.ca_digests(ca)},
    }
    assert rules.key_rules(["A"], ["client"]) == {"names": ["a"], "roles": ["client"]}


def test_rules_of_a_file_hold_per_secret(unlatch: Shell, url: str, tmp_path: Path) -> None:
    token(tmp_path)
    Path("use.yaml").write_text(
        "tls: {names: [pay.example], roles: [server]}\n"
        "psp: {upstream: 'https://api:443', callers: [anyone], paths: ['/v1/*']}\n"
    )

    assert unlatch(*pinned(url), *TLS[:2], "--token", "psp=@token", "--use", "use.yaml") == 0

    assert unlatch(*pinned(url), *TLS[:2], "--use", "use.yaml", "--force") == 2
    assert "psp, which is not sealed here" in unlatch.err


def test_existing_file_is_kept_without_force(unlatch: Shell, url: str) -> None:
    Path("pay.jwe").write_text("precious")

    assert unlatch(*pinned(url), *TLS) == 21
    assert Path("pay.jwe").read_text() == "precious"
    assert unlatch(*pinned(url), *TLS, "--force") == 0


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ([], 16, "nothing pins the signing key"),
        (["--thp", "A" * 43], 16, "not signed by the pinned key"),
        (["--policy", '{"url":"http://a"}'], 2, "say where to"),
    ],
)
def test_server_must_be_trusted(unlatch: Shell, url: str, flags: list[str], code: int, message: str) -> None:
    assert unlatch("seal", "--to", url, *flags, *TLS, "--out", "pay.jwe") == code

    assert message in unlatch.err
    assert not Path("pay.jwe").exists()


def test_first_use_is_recorded_and_told(unlatch: Shell, url: str) -> None:
    assert unlatch("seal", "--to", url, "--trust-on-first-use", *TLS, "--out", "pay.jwe") == 0
    assert unlatch("inspect", "pay.jwe") == 0

    assert b"TRUSTED ON FIRST USE" in unlatch.out


def test_context_pins_its_gate(unlatch: Shell, url: str) -> None:
    from unlatch.bootstrap.context import Context, contexts_folder

    body = TANG.advertisement()
    Context.from_advertisement(body, name="home", url=url, thumbprint=TANG.thumbprint).save(contexts_folder())

    for to in (f"{url}/s/pay", "home/pay"):
        assert unlatch("seal", "--to", to, *TLS, "--out", "pay.jwe", "--force") == 0, unlatch.err
        assert unlatch("inspect", "pay.jwe", "--json") == 0
        facts: Any = json.loads(unlatch.out)
        assert facts["unlatch"]["trust"] == {f"{url}/s/pay": "context"}
        assert facts["workload"] == "pay"


def test_context_of_another_key_is_refused(unlatch: Shell, url: str) -> None:
    from unlatch.bootstrap.context import Context, contexts_folder

    other = FakeTang()
    Context.from_advertisement(other.advertisement(), name="home", url=url, thumbprint=other.thumbprint).save(
        contexts_folder()
    )

    assert unlatch("seal", "--to", "home/pay", *TLS, "--out", "pay.jwe") == 16
    assert "not signed by the pinned key" in unlatch.err


def test_advertisement_file_is_trusted(unlatch: Shell, url: str) -> None:
    Path("adv.jws").write_bytes(TANG.advertisement())

    assert unlatch("seal", "--to", url, "--adv", "adv.jws", *TLS, "--out", "pay.jwe") == 0


def test_policy_of_two_servers_opens_with_one(unlatch: Shell, url: str) -> None:
    down = {"url": "http://127.0.0.1:9", "adv": json.loads(TANG.advertisement())}
    policy = {"t": 1, "pins": {"tang": [down, {"url": url, "thp": TANG.thumbprint}]}}
    Path("policy.json").write_text(json.dumps(policy))

    assert unlatch("seal", "--policy", "policy.json", *TLS, "--out", "pay.jwe") == 0
    assert unlatch("open", "pay.jwe", "--out", "tls.pem") == 0


def test_inspect_says_when_and_by_whom(unlatch: Shell, url: str, tmp_path: Path) -> None:
    token(tmp_path)
    assert unlatch("recovery", "init", "--out", "rec.jwk") == 0
    assert (
        unlatch(*pinned(f"{url}/s/pay"), "--token", "psp=@token", "--unbound", "--recovery", "rec.jwk.pub")
        == 0
    )
    assert unlatch("inspect", "pay.jwe") == 0

    text = unlatch.out.decode()
    for words in (
        "bundle for workload pay",
        "psp: token (UNBOUND",
        "any of these happens",
        f"a person approves pay at {url}/s/pay",
        "somebody brings the offline recovery key",
        "pinned by thumbprint",
        "clevis decrypt opens it too",
        "past every gate and person",
        "no sealed rules for psp",
    ):
        assert words in text
    assert "one way in" not in text


def test_inspect_warns_of_one_way_in_and_shows_no_escape_sequences(unlatch: Shell, url: str) -> None:
    assert unlatch(*pinned(url), *TLS, "--workload", "pay\x1b[31m") == 0
    assert unlatch("inspect", "pay.jwe") == 0

    assert b"warning: one way in" in unlatch.out
    assert b"\x1b" not in unlatch.out


def test_recovery_key_opens_when_the_server_is_gone(unlatch: Shell, tmp_path: Path) -> None:
    token(tmp_path)
    assert unlatch("recovery", "init", "--out", "rec.jwk") == 0
    assert stat.S_IMODE(Path("rec.jwk").stat().st_mode) == 0o600
    assert json.loads(unlatch.out) == json.loads(Path("rec.jwk.pub").read_bytes())
    assert "d" not in json.loads(Path("rec.jwk.pub").read_bytes())
    with ScriptedServer(serve) as server:
        assert (
            unlatch(*pinned(server.url), "--token", "psp=@token", "--unbound", "--recovery", "rec.jwk.pub")
            == 0
        )

    assert unlatch("open", "pay.jwe") == 15
    assert unlatch("open", "pay.jwe", "--recovery-key", "rec.jwk") == 0
    assert unlatch.out == b"s3cr3t"


def test_private_half_is_refused_for_sealing(unlatch: Shell, url: str) -> None:
    unlatch("recovery", "init", "--out", "rec.jwk")

    assert unlatch(*pinned(url), *TLS, "--recovery", "rec.jwk") == 21
    assert "holds the private key" in unlatch.err


def test_recovery_key_is_not_overwritten(unlatch: Shell) -> None:
    assert unlatch("recovery", "init", "--out", "rec.jwk") == 0
    before = Path("rec.jwk").read_bytes()

    assert unlatch("recovery", "init", "--out", "rec.jwk") == 21
    assert Path("rec.jwk").read_bytes() == before


def test_bundle_of_several_needs_a_choice(unlatch: Shell, url: str, tmp_path: Path) -> None:
    token(tmp_path)
    unlatch(*pinned(url), *TLS, "--token", "psp=@token", "--unbound")

    assert unlatch("open", "pay.jwe") == 2
    assert "the bundle holds tls, psp" in unlatch.err
    assert unlatch("open", "pay.jwe", "--secret", "nope") == 21


def test_private_key_is_not_printed_on_a_terminal(
    unlatch: Shell, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlatch(*pinned(url), *TLS)
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 1)

    assert unlatch("open", "pay.jwe") == 2
    assert "never printed on a terminal" in unlatch.err
    assert unlatch.out == b""


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (lambda jwe: jwe[:-1] + bytes([jwe[-1] ^ 1]), 18, ""),
        (lambda jwe: jwe[: len(jwe) // 2], 18, "fields separated by dots"),
        (lambda _: b"<html>", 18, "fields separated by dots"),
        (lambda _: b"", 18, "fields separated by dots"),
    ],
)
def test_spoilt_file_is_refused_with_code_18(
    unlatch: Shell, url: str, spoil: Any, code: int, message: str
) -> None:
    unlatch(*pinned(url), *TLS)
    Path("pay.jwe").write_bytes(spoil(Path("pay.jwe").read_bytes()))

    assert unlatch("open", "pay.jwe", "--out", "x") == code

    assert message in unlatch.err
    assert "unlatch: hint:" in unlatch.err
    assert not Path("x").exists()


def test_raw_file_of_clevis_opens_whole(unlatch: Shell, url: str) -> None:
    from support.secrets import secret

    from unlatch.bootstrap import seal

    target = seal.TangTarget(url, tuple(TANG.keys), TANG.exchange_public, "pinned")
    Path("raw.jwe").write_bytes(seal.encrypt(secret(b"just bytes\n"), target))

    assert unlatch("open", "raw.jwe") == 0
    assert unlatch.out == b"just bytes\n"
    assert unlatch("open", "raw.jwe", "--secret", "x") == 2


def test_missing_file_is_a_configuration_error(unlatch: Shell) -> None:
    for name in ("open", "inspect"):
        assert unlatch(name, "none.jwe") == 21
        assert "none.jwe" in unlatch.err
