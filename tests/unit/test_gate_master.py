"""The master key's file in each of its kinds, and a change of protector that is cut short at every step."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unlatch.bootstrap import jose
from unlatch.bootstrap.pins.hardware import NO_ADVICE
from unlatch.bootstrap.policy import Pkcs11Rule, Tpm2Rule
from unlatch.errors import ConfigError, DamagedFileError, UnlatchError
from unlatch.gate import master as masters
from unlatch.gate.master import FILE, MARKER, MASTER_BYTES, Protector, describe, needs_child, open_master
from unlatch.gate.rewrap import SUFFIX, change_protector, settle
from unlatch.gate.vault import Vault
from unlatch.memguard._native import Secret, exchange_key_generate, jwe_seal, jwe_seal_to


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """DIR/keyholder of a gate with two exchange keys."""
    vault = Vault.create(tmp_path / "keyholder")
    for _ in range(2):
        vault.store(vault.new_exchange_key())
    return tmp_path / "keyholder"


def change(folder: Path) -> None:
    change_protector(folder, open_master(folder), Protector(), hardware=NO_ADVICE)


def facts(folder: Path) -> tuple[object, ...]:
    """Everything that a gate is known by; opening it needs every key."""
    vault = Vault(folder)
    kids = sorted(path.stem for path in (folder / "keys").glob("*.jwe"))
    return (vault.signing_public, vault.log_keys, [vault.exchange_public(kid) for kid in kids])


def test_key_in_a_file_is_opened_here_and_is_its_owner_s(folder: Path) -> None:
    path = folder / FILE

    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (MASTER_BYTES, 0o600)
    assert not needs_child(folder)
    assert len(open_master(folder)) == MASTER_BYTES
    assert describe(folder).startswith("file:")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_key_that_others_may_read_is_refused(folder: Path, mode: int) -> None:
    (folder / FILE).chmod(mode)
    with pytest.raises(ConfigError, match="others may read"):
        open_master(folder)


@pytest.mark.parametrize(
    "content", [b"", b"x", bytes(31), bytes(33), MARKER[:-1], MARKER * 2, b"\xff" * 100, b"eyJ"]
)
def test_file_that_is_no_master_key_is_refused(folder: Path, content: bytes) -> None:
    (folder / FILE).write_bytes(content)
    with pytest.raises(ConfigError):
        open_master(folder)
    with pytest.raises(UnlatchError):
        describe(folder)


def test_missing_file_is_refused(folder: Path) -> None:
    (folder / FILE).unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        open_master(folder)


def test_another_gate_s_master_key_opens_nothing(folder: Path, tmp_path: Path) -> None:
    Vault.create(tmp_path / "other")
    shutil.copy(tmp_path / "other" / FILE, folder / FILE)
    with pytest.raises(DamagedFileError):
        Vault(folder)


def test_key_sealed_to_a_server_is_not_asked_for(folder: Path) -> None:
    """Whoever may write the folder could otherwise have keyholder ask the network at every start."""
    _, public = exchange_key_generate("P-521")
    key = jose.read_json(public)
    assert isinstance(key, dict)
    header = {
        "clevis": {"pin": "tang", "tang": {"url": "http://127.0.0.1:1", "adv": {"keys": [key]}}},
        "kid": jose.thumbprint(key),
    }
    (folder / FILE).write_bytes(jwe_seal_to(jose.write_json(header), Secret.random(MASTER_BYTES), public))
    with pytest.raises(ConfigError, match="something else than a TPM"):
        open_master(folder)


def test_key_sealed_to_nothing_is_refused(folder: Path) -> None:
    key = Secret.random(32)
    (folder / FILE).write_bytes(
        jwe_seal(b'{"clevis":{"pin":"null","null":{}}}', Secret.random(MASTER_BYTES), key)
    )
    with pytest.raises(ConfigError, match="something else than a TPM"):
        open_master(folder)


def test_credential_comes_from_the_service_manager(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = facts(folder)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (folder / FILE).rename(credentials / masters.CREDENTIAL)
    (folder / FILE).write_bytes(MARKER)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))

    assert facts(folder) == before
    assert not needs_child(folder)
    assert "LoadCredentialEncrypted=unlatch-gate-master" in describe(folder)
    (credentials / masters.CREDENTIAL).write_bytes(bytes(31))
    with pytest.raises(ConfigError, match="not 32 bytes"):
        open_master(folder)


@pytest.mark.parametrize("set_variable", [True, False])
def test_credential_that_was_not_handed_over_is_missed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_variable: bool
) -> None:
    (folder / FILE).write_bytes(MARKER)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    if set_variable:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(ConfigError, match="did not hand") as caught:
        open_master(folder)
    assert "LoadCredentialEncrypted=" in str(caught.value.hint)


def test_protector_takes_what_goes_with_it() -> None:
    Protector("tpm2", Tpm2Rule(), {"kty": "EC"})
    Protector("pkcs11", Pkcs11Rule("pkcs11:token=a"))
    with pytest.raises(ConfigError):
        Protector("tpm2")
    with pytest.raises(ConfigError):
        Protector("file", Tpm2Rule())
    for kind in ("file", "systemd-credential"):
        with pytest.raises(ConfigError, match="recovery key"):
            Protector(kind, None, {"kty": "EC"})


def test_change_gives_a_new_master_key_and_the_same_gate(folder: Path, tmp_path: Path) -> None:
    before = facts(folder)
    old = tmp_path / "old"
    shutil.copy(folder / FILE, old)
    change(folder)

    assert (folder / FILE).read_bytes() != old.read_bytes()
    assert facts(folder) == before
    assert list(folder.rglob(f"*{SUFFIX}")) == []
    shutil.copy(old, folder / FILE)
    with pytest.raises(DamagedFileError):
        Vault(folder)


CUT = """
import os, signal, sys
from pathlib import Path
from unlatch.bootstrap.pins.hardware import NO_ADVICE
from unlatch.gate.master import Protector, open_master
from unlatch.gate.rewrap import change_protector
left, real = int(sys.argv[2]), os.fsync
def fsync(descriptor):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
folder = Path(sys.argv[1])
change_protector(folder, open_master(folder), Protector(), hardware=NO_ADVICE)
print("done")
"""


def test_kill_9_at_every_step_of_a_change_leaves_the_gate_whole(folder: Path, tmp_path: Path) -> None:
    """Before each point that makes something last: then either the old or the new master key opens everything."""
    before = facts(folder)
    old = (folder / FILE).read_bytes()
    changed = []
    for step in range(100):
        copy = tmp_path / f"step-{step}"
        shutil.copytree(folder, copy)
        done = subprocess.run([sys.executable, "-c", CUT, copy, str(step)], capture_output=True, check=False)
        changed.append((copy / FILE).read_bytes() != old)

        assert facts(copy) == before
        assert list(copy.rglob(f"*{SUFFIX}")) == []
        if done.stdout == b"done\n":
            break
    assert done.returncode == 0
    assert {False, True} == set(changed)
    assert changed == sorted(changed)


def test_what_a_cut_change_left_is_thrown_away_before_the_next(folder: Path) -> None:
    before = facts(folder)
    done = subprocess.run([sys.executable, "-c", CUT, folder, "4"], capture_output=True, check=False)
    assert done.returncode == -9
    assert list(folder.rglob(f"*{SUFFIX}")) != []
    change(folder)

    assert facts(folder) == before


def test_settling_twice_changes_nothing(folder: Path) -> None:
    before = facts(folder)
    settle(folder, open_master(folder))

    assert facts(folder) == before
