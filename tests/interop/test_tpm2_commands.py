"""unlatch tpm, and seal --tpm, with a software TPM."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from support.swtpm import Swtpm

from unlatch import __main__

pytestmark = pytest.mark.interop


@pytest.fixture
def tpm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Swtpm]:
    monkeypatch.chdir(tmp_path)
    with Swtpm() as running:
        monkeypatch.setenv("UNLATCH_TCTI", running.tcti)
        yield running


def unlatch(*arguments: str | Path) -> int:
    return __main__.run([str(argument) for argument in arguments])


def sealed(*arguments: str) -> int:
    Path("value").write_text("hello")
    return unlatch("seal", *arguments, "--token", "psp=@value", "--unbound", "--out", "pay.jwe", "--force")


def opened() -> tuple[int, str]:
    code = unlatch("open", "pay.jwe", "--out", "out", "--force")
    return code, Path("out").read_text() if code == 0 else ""


@pytest.mark.parametrize("kind", ["ecc", "ecc384", "rsa"])
def test_key_is_made_checked_and_gets_a_request(
    tpm: Swtpm, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert unlatch("tpm", "make-key", "--kind", kind, "--out", "site.pem") == 0
    assert Path("site.pem").stat().st_mode & 0o777 == 0o600
    assert unlatch("tpm", "check", "site.pem") == 0
    assert "seals and unseals" in capfd.readouterr().out
    assert unlatch("tpm", "csr", "site.pem", "--names", "pay.example", "--out", "site.csr") == 0

    assert x509.load_pem_x509_csr(Path("site.csr").read_bytes()).is_signature_valid
    assert tpm.leaks() == []


def test_list_says_what_is_there(tpm: Swtpm, capfd: pytest.CaptureFixture[str]) -> None:
    assert unlatch("tpm", "list", "--json") == 0

    facts = json.loads(capfd.readouterr().out)
    assert facts["manufacturer"] == "IBM"
    assert facts["banks"]["sha256"] == list(range(24))
    assert facts["epoch"] is None
    assert facts["loaded"] == 0


def test_check_warns_of_objects_that_others_left(tpm: Swtpm, capfd: pytest.CaptureFixture[str]) -> None:
    tpm.run("tpm2_createprimary", "-C", "o", "-c", f"{tpm.folder}/x.ctx")

    assert unlatch("tpm", "check") == 23
    assert "1 objects of other programs" in capfd.readouterr().out


def test_check_fails_without_a_tpm(tpm: Swtpm, capfd: pytest.CaptureFixture[str]) -> None:
    tpm.stop()

    assert unlatch("tpm", "check") == 22
    assert "does not answer" in capfd.readouterr().out


def test_key_of_another_tpm_fails_the_check(
    tpm: Swtpm, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert unlatch("tpm", "make-key", "--out", "site.pem") == 0
    with Swtpm() as other:
        monkeypatch.setenv("UNLATCH_TCTI", other.tcti)
        assert unlatch("tpm", "check", "site.pem") == 22
    assert "is it of this TPM?" in capfd.readouterr().out


def test_file_of_the_tpm_alone_opens_here_and_locks_with_the_pcrs(
    tpm: Swtpm, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sealed("--pcrs", "sha256:7,11") == 0
    assert opened() == (0, "hello")
    assert unlatch("inspect", "pay.jwe") == 0
    assert "PCRs sha256:7,11 are as they were at sealing" in capfd.readouterr().out

    tpm.extend(11, "kernel 2")

    assert opened()[0] == 13


def test_signed_values_let_an_update_through_and_an_epoch_takes_them_back(tpm: Swtpm) -> None:
    assert unlatch("tpm", "policy", "make-key", "--out", "policy.pem") == 0
    assert sealed("--pcr-policy", "policy.pem.pub") == 0
    assert opened()[0] == 13
    assert unlatch("tpm", "policy", "epoch", "1") == 0
    sign = ("tpm", "policy", "sign", "--key", "policy.pem", "--pcrs", "11", "--out", "pay.jwe.pcrs")
    assert unlatch(*sign, "--epoch", "1") == 0
    assert opened() == (0, "hello")
    tpm.extend(11, "kernel 2")
    assert opened()[0] == 13
    assert unlatch(*sign, "--epoch", "2") == 0
    assert opened() == (0, "hello")

    assert unlatch("tpm", "policy", "epoch", "2") == 0
    assert opened() == (0, "hello")
    tpm.restart()
    assert opened()[0] == 13  # the old kernel's values were signed for epoch 1 only


def test_values_to_come_are_signed_without_their_machine(tpm: Swtpm) -> None:
    from hashlib import sha256

    to_come = sha256(bytes(32) + sha256(b"kernel 9").digest()).hexdigest()
    assert unlatch("tpm", "policy", "make-key", "--out", "policy.pem") == 0
    assert sealed("--pcr-policy", "policy.pem.pub", "--pcr-policy-for", "pay") == 0
    sign = (
        "tpm",
        "policy",
        "sign",
        "--key",
        "policy.pem",
        "--pcrs",
        "11",
        "--value",
        f"11={to_come}",
        "--out",
        "pay.jwe.pcrs",
    )
    assert unlatch(*sign) == 0
    tpm.extend(11, "kernel 9")
    assert opened()[0] == 13  # signed, but not for "pay"

    assert unlatch(*sign, "--for", "pay") == 0
    assert opened() == (0, "hello")


@pytest.mark.parametrize("value", ["11", "x=00", "11=zz", "11=00", "12=" + "00" * 32])
def test_values_that_are_none_are_refused(tpm: Swtpm, value: str) -> None:
    assert unlatch("tpm", "policy", "make-key", "--out", "policy.pem") == 0

    assert (
        unlatch(
            "tpm", "policy", "sign", "--key", "policy.pem", "--pcrs", "11", "--value", value, "--out", "x"
        )
        == 2
    )


def test_missing_library_is_named_with_the_line_to_run(
    tpm: Swtpm, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tpm2_pytss", None)

    assert unlatch("tpm", "list") == 21
    assert "pip install 'unlatch[tpm]'" in capfd.readouterr().err


def test_stand_in_for_clevis_encrypts_what_clevis_decrypts(tpm: Swtpm) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "unlatch", "clevis"]
    config = '{"pcr_bank":"sha256","pcr_ids":"7"}'
    done = subprocess.run(
        [*command, "encrypt", "tpm2", config],
        input=b"hi",
        capture_output=True,
        env=tpm.environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr

    assert tpm.run("clevis", "decrypt", data=done.stdout) == b"hi"
    tpm.run("tpm2_flushcontext", "-t")
    theirs = tpm.run("clevis", "encrypt", "tpm2", config, data=b"theirs")
    tpm.run("tpm2_flushcontext", "-l")
    done = subprocess.run(
        [*command, "decrypt"], input=theirs, capture_output=True, env=tpm.environment, timeout=60
    )
    assert done.stdout == b"theirs"
