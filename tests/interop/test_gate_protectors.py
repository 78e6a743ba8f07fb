"""The gate's master key in a software TPM, a software token and a systemd credential, and what a stolen folder is worth then."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gate import Gate, Opening
from support.product import UNLATCH, environment, eventually
from support.softhsm import MODULE, PIN, SoftHsm
from support.swtpm import Swtpm

from unlatch.gate.master import CREDENTIAL

pytestmark = pytest.mark.interop

TOKEN = f"pkcs11:token=prod;object=wrap?module-path={MODULE}"


@pytest.fixture(scope="module")
def tpm() -> Iterator[Swtpm]:
    """A software TPM."""
    with Swtpm() as running:
        yield running


@pytest.fixture
def own_tpm() -> Iterator[Swtpm]:
    """A software TPM for a test that changes it."""
    with Swtpm() as running:
        yield running


@pytest.fixture(scope="module")
def hsm() -> Iterator[SoftHsm]:
    """A token with an RSA key."""
    with SoftHsm() as tokens:
        tokens.add_token("prod")
        tokens.make_key("prod", "rsa:2048", "wrap")
        (tokens.folder / "pin").write_text(f"{PIN}\n")
        yield tokens


def with_token(hsm: SoftHsm) -> dict[str, str]:
    """How programs reach the token."""
    return {"SOFTHSM2_CONF": str(hsm.config), "UNLATCH_PKCS11_PIN_FILE": str(hsm.folder / "pin")}


def with_tpm(tpm: Swtpm) -> dict[str, str]:
    """How programs reach the TPM."""
    return {"UNLATCH_TCTI": tpm.tcti}


@pytest.fixture(params=["tpm2", "tpm2 with PCRs", "pkcs11"])
def protected(request: pytest.FixtureRequest, tmp_path: Path, tpm: Swtpm, hsm: SoftHsm) -> Gate:
    """A gate whose master key is in hardware; not served."""
    if request.param == "pkcs11":
        return Gate(tmp_path, protect=("--protect", TOKEN), variables=with_token(hsm))
    pcrs = ("--pcrs", "sha256:7,11") if "PCRs" in request.param else ()
    return Gate(tmp_path, protect=("--protect", "tpm2", *pcrs), variables=with_tpm(tpm))


def opens(gate: Gate, *, jwe: bytes | None = None) -> bytes:
    """Ask a served gate, approve, and give the sealed bytes it takes to ask again."""
    jwe = jwe or gate.seal_with_clevis(b"secret")
    with Opening(gate, jwe) as asker:
        assert gate.approve(code=asker.code()).returncode == 0
        assert asker.end() == (0, b"secret")
    return jwe


def refusal(gate: Gate, *, code: int) -> str:
    """What `gate serve` says when it does not start."""
    done = gate.run(
        "gate", "serve", str(gate.directory), "--listen", "127.0.0.1:0", "--people", "127.0.0.1:0"
    )
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert "Traceback" not in text
    return text


def protect(gate: Gate, *arguments: str) -> str:
    return gate.must("gate", "protect", str(gate.directory), *arguments).decode()


def test_gate_serves_restarts_and_answers(protected: Gate) -> None:
    with protected as gate:
        jwe = opens(gate)
        gate.kill()
        gate.start()
        opens(gate, jwe=jwe)
        assert gate.verify_audit().returncode == 0


def test_keyholder_keeps_no_library_no_pin_and_no_way_to_the_hardware(protected: Gate) -> None:
    with protected as gate:
        pid = gate.keyholder_pid()
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "seccomp" in Path(f"/proc/{pid}/status").read_text().lower()
        for library in ("softhsm", "libtss2", "pkcs11", "tpm2"):
            assert library not in maps
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        assert children == ""


def pieces(secret: bytes) -> list[bytes]:
    """A secret whole and in pieces of 16 bytes, as bytes, hex and base64."""
    found = []
    for part in (secret, secret[:16], secret[16:]):
        found += [part, part.hex().encode(), base64.b64encode(part)[:20], base64.urlsafe_b64encode(part)[:20]]
    return found


def opened_here(gate: Gate) -> bytes:
    """The master key, opened in a child that has what the gate has."""
    program = (
        "import sys; from pathlib import Path; from unlatch.gate.master import open_master\n"
        "with open_master(Path(sys.argv[1])).expose() as view: sys.stdout.buffer.write(bytes(view))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, gate.directory / "keyholder"],
        capture_output=True, check=True, env=environment(gate.folder) | gate.variables,
    )  # fmt: skip
    return done.stdout


def test_master_key_stands_nowhere_in_the_folder(protected: Gate) -> None:
    secret = opened_here(protected)
    assert len(secret) == 32
    for path in protected.directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [piece for piece in pieces(secret) if piece in content], path


def test_stolen_folder_opens_nothing_without_the_hardware(protected: Gate, tmp_path: Path) -> None:
    away = 15 if "UNLATCH_PKCS11_PIN_FILE" in protected.variables else 21  # a token may be plugged in again
    protected.variables = {}
    text = refusal(protected, code=away)

    assert "no TPM" in text or "no token" in text
    assert "hint" in text


def test_stolen_folder_opens_nothing_with_other_hardware(protected: Gate, own_tpm: Swtpm) -> None:
    with SoftHsm() as other:
        other.add_token("prod")
        other.make_key("prod", "rsa:2048", "wrap")
        (other.folder / "pin").write_text(PIN)
        protected.variables = with_token(other) | with_tpm(own_tpm)
        text = refusal(protected, code=18)
    assert "does not know the sealed key" in text or "no key of" in text


def test_stopped_gate_says_why_it_cannot_be_changed(protected: Gate) -> None:
    protected.variables = {}
    done = protected.run(
        "gate", "workload", "add", "x", "--approver", "mara", "--dir", str(protected.directory), "--sign-with", str(protected.key())
    )  # fmt: skip

    assert done.returncode in (15, 21)
    assert b"the master key does not open: no" in done.stderr


def test_new_gate_without_its_hardware_leaves_no_folder_behind(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    for protector in ("tpm2", TOKEN):
        folder = tmp_path / "new"
        done = gate.run(
            "gate", "init", str(folder), "--admin-key", f"{gate.key()}.pub", "--protect", protector
        )
        assert done.returncode in (15, 21)
        assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [("--protect", "vault"), ("--protect", "file", "--pcrs", "7"), ("--protect", "tpm2", "--pcrs", "99"),
     ("--protect", "pkcs11:nonsense"), ("--pcrs", "7")],
)  # fmt: skip
def test_protector_that_is_none_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    gate = Gate(tmp_path)
    before = (gate.directory / "keyholder" / "master.key").read_bytes()
    done = gate.run("gate", "protect", str(gate.directory), *arguments)

    assert done.returncode in (2, 21)
    assert (gate.directory / "keyholder" / "master.key").read_bytes() == before


def test_pcrs_that_changed_lock_the_gate_and_the_recovery_key_opens_it(
    tmp_path: Path, own_tpm: Swtpm
) -> None:
    gate = Gate(tmp_path, variables=with_tpm(own_tpm))
    gate.must("recovery", "init", "--out", "offline.jwk")
    said = protect(gate, "--protect", "tpm2", "--pcrs", "sha256:7", "--recovery", "offline.jwk.pub")
    assert "PCRs sha256:7" in said
    assert "recovery key" in said
    own_tpm.extend(7, "another kernel")
    assert "PCRs sha256:7" in refusal(gate, code=13)

    protect(gate, "--protect", "tpm2", "--pcrs", "sha256:7", "--recovery-key", "offline.jwk")
    with gate:
        opens(gate)


def test_recovery_key_opens_when_the_tpm_is_lost(tmp_path: Path, own_tpm: Swtpm) -> None:
    gate = Gate(tmp_path, variables=with_tpm(own_tpm))
    gate.must("recovery", "init", "--out", "offline.jwk")
    protect(gate, "--protect", "tpm2", "--recovery", "offline.jwk.pub")
    own_tpm.stop()
    assert "does not answer" in refusal(gate, code=15)
    wrong = gate.run("recovery", "init", "--out", "other.jwk")
    assert wrong.returncode == 0
    assert (
        gate.run(
            "gate", "protect", str(gate.directory), "--protect", "file", "--recovery-key", "other.jwk"
        ).returncode
        != 0
    )

    assert protect(gate, "--protect", "file", "--recovery-key", "offline.jwk").startswith("file")
    with gate:
        opens(gate)


def test_wrong_pin_is_tried_once_and_ends_with_13(tmp_path: Path) -> None:
    with SoftHsm() as hsm:
        hsm.add_token("prod")
        hsm.make_key("prod", "rsa:2048", "wrap")
        pin = hsm.folder / "pin"
        pin.write_text(PIN)
        gate = Gate(tmp_path, protect=("--protect", TOKEN), variables=with_token(hsm))
        pin.write_text("000000")
        assert "the PIN is wrong" in refusal(gate, code=13)
        pin.unlink()
        assert "cannot read" in refusal(gate, code=21)
        pin.write_text(PIN)
        with gate:
            opens(gate)


def test_pin_may_come_as_a_credential(tmp_path: Path, hsm: SoftHsm) -> None:
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "pkcs11-pin").write_text(PIN)
    variables = {"SOFTHSM2_CONF": str(hsm.config), "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    with Gate(tmp_path, protect=("--protect", TOKEN), variables=variables) as gate:
        opens(gate)


def test_token_without_its_key_protects_nothing(tmp_path: Path, hsm: SoftHsm) -> None:
    gate = Gate(tmp_path, variables=with_token(hsm))
    for uri, told in (("object=none", b"no RSA key"), ("token=none", b"no token")):
        name = f"pkcs11:{'token=prod;' if 'object' in uri else ''}{uri}?module-path={MODULE}"
        done = gate.run("gate", "protect", str(gate.directory), "--protect", name)
        assert done.returncode in (15, 21)
        assert told in done.stderr
    with gate:
        opens(gate)


def test_served_gate_needs_its_tpm_at_the_start_only(tmp_path: Path, own_tpm: Swtpm) -> None:
    with Gate(tmp_path, protect=("--protect", "tpm2"), variables=with_tpm(own_tpm)) as gate:
        jwe = opens(gate)
        own_tpm.stop()
        opens(gate, jwe=jwe)
        assert gate.stop() == 0
        assert "does not answer" in refusal(gate, code=15)
        own_tpm.start()
        gate.start()
        opens(gate, jwe=jwe)


def test_tpm_that_hangs_ends_the_start(tmp_path: Path, own_tpm: Swtpm) -> None:
    gate = Gate(tmp_path, protect=("--protect", "tpm2"), variables=with_tpm(own_tpm))
    os.kill(own_tpm.pid, signal.SIGSTOP)
    try:
        assert "answer" in refusal(gate, code=19)
    finally:
        os.kill(own_tpm.pid, signal.SIGCONT)


def test_gate_in_use_is_not_changed(tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        done = gate.run("gate", "protect", str(gate.directory), "--protect", "file")
        assert done.returncode == 21
        assert b"in use" in done.stderr


def test_every_protector_can_be_changed_for_every_other(tmp_path: Path, tpm: Swtpm, hsm: SoftHsm) -> None:
    gate = Gate(tmp_path, variables=with_token(hsm) | with_tpm(tpm))
    sealed: bytes | None = None
    for protector in (TOKEN, "tpm2", "file", "tpm2", TOKEN, "file"):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(gate.directory, copy)
        protect(gate, "--protect", protector)
        shutil.copy(copy / "keyholder" / "master.key", tmp_path / "old")
        with gate:
            sealed = opens(gate, jwe=sealed)
            gate.stop()
        shutil.rmtree(copy)
        shutil.copytree(gate.directory, copy)
        shutil.copy(tmp_path / "old", copy / "keyholder" / "master.key")
        stale = gate.run("gate", "serve", str(copy), "--listen", "127.0.0.1:0", "--people", "127.0.0.1:0")
        assert stale.returncode == 18, stale.stderr


def test_kill_9_while_the_tpm_opens_leaves_nothing_running(tmp_path: Path, own_tpm: Swtpm) -> None:
    """The child that opens hangs with its TPM; keyholder dies; the child ends with it and the folder is free again."""
    gate = Gate(tmp_path, protect=("--protect", "tpm2"), variables=with_tpm(own_tpm))
    os.kill(own_tpm.pid, signal.SIGSTOP)
    command = [
        *UNLATCH,
        "gate",
        "serve",
        str(gate.directory),
        "--listen",
        "127.0.0.1:0",
        "--people",
        "127.0.0.1:0",
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env=environment(tmp_path) | gate.variables, start_new_session=True
    )
    try:
        opener = eventually("the opening child", lambda: _child(process.pid, b"unlatch.gate.unwrap"))
        keyholder = _child(process.pid, b"keyholder_main")
        assert keyholder is not None
        os.kill(keyholder, signal.SIGKILL)
        eventually("the child's end", lambda: None if _lives(opener) else True)
        assert process.wait(30) != 0
    finally:
        os.kill(own_tpm.pid, signal.SIGCONT)
        process.kill()
        process.wait()
    own_tpm.restart()
    with gate:
        opens(gate)


def _child(pid: int, name: bytes) -> int | None:
    """A descendant by its command line."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in map(int, children):
            if name in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
            if (found := _child(child, name)) is not None:
                return found
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_systemd_credential_is_handed_over_by_the_service_manager(tmp_path: Path) -> None:
    """systemd-creds encrypts; that it decrypts for the unit into a folder of its own is done here by hand."""
    gate = Gate(tmp_path)
    assert "LoadCredentialEncrypted=unlatch-gate-master:" in protect(gate, "--protect", "systemd-credential")
    keyholder = gate.directory / "keyholder"
    assert "did not hand the gate's master key over" in refusal(gate, code=21)
    handed = tmp_path / "credentials"
    handed.mkdir(mode=0o700)
    subprocess.run(
        ["systemd-creds", "decrypt", f"--name={CREDENTIAL}", keyholder / "master.cred", handed / CREDENTIAL],
        check=True,
    )
    (handed / CREDENTIAL).chmod(0o400)
    secret = (handed / CREDENTIAL).read_bytes()
    assert all(piece not in path.read_bytes() for path in keyholder.rglob("*.*") for piece in pieces(secret))

    gate.variables = {"CREDENTIALS_DIRECTORY": str(handed)}
    with gate:
        jwe = opens(gate)
        gate.stop()
    protect(gate, "--protect", "systemd-credential")
    refusal(gate, code=18)  # the old one was handed over
    protect(gate, "--protect", "file")
    assert not (keyholder / "master.cred").exists()
    with gate:
        opens(gate, jwe=jwe)
