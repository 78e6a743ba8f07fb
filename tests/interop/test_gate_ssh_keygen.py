"""OpenSSH's ssh-keygen and we agree on signatures, both ways."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.gate import make_ssh_key
from support.ssh_keys import SshKey

from unlatch.gate.signing import SigningError, read_public_key, sign
from unlatch.gate.sshsig import verify_sshsig

pytestmark = pytest.mark.interop

MESSAGE, PURPOSE = b'{"decision":"approve"}', "unlatch-approve-v1"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_signature_of_ssh_keygen_is_verified(kind: str, tmp_path: Path) -> None:
    key = make_ssh_key(tmp_path / "ssh" / kind, kind=kind)

    found = verify_sshsig(sign(MESSAGE, key=key, namespace=PURPOSE), MESSAGE, namespace=PURPOSE)

    assert found.key == read_public_key(key)


def test_fingerprint_is_the_one_that_ssh_keygen_prints(tmp_path: Path) -> None:
    key = make_ssh_key(tmp_path / "ssh" / "mara")
    printed = subprocess.run(
        ["ssh-keygen", "-l", "-f", key], capture_output=True, check=True, text=True
    ).stdout

    assert read_public_key(key).fingerprint == printed.split()[1]


@pytest.mark.parametrize(
    "kind", ["ssh-ed25519", "ecdsa-sha2-nistp384", "ssh-rsa", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"]
)  # fmt: skip
def test_ssh_keygen_verifies_what_our_test_keys_sign(kind: str, tmp_path: Path) -> None:
    """The keys of the unit tests, security keys among them, are real ones to OpenSSH."""
    key = SshKey(kind)
    (tmp_path / "allowed").write_text(f"mara {key.line}\n")
    (tmp_path / "signature").write_text(key.sign(MESSAGE, namespace=PURPOSE))

    done = subprocess.run(
        [
            "ssh-keygen", "-Y", "verify", "-f", tmp_path / "allowed", "-I", "mara", "-n", PURPOSE,
            "-s", tmp_path / "signature",
        ],
        input=MESSAGE, capture_output=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr.decode()


def test_key_with_a_passphrase_and_no_terminal_signs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "never")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "passphrase", "-f", key], check=True)
    broken = key.read_bytes()[:-200]
    key.chmod(0o600)
    key.write_bytes(broken)
    with pytest.raises(SigningError, match="did not sign"):
        sign(MESSAGE, key=key, namespace=PURPOSE)
