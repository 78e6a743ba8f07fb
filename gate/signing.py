"""Signing with the operator's SSH key through `ssh-keygen -Y sign`, so that agents, security keys and their touch just work."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from unlatch.errors import ConfigError, RefusedError
from unlatch.gate.sshsig import PublicKey

SIGN_SECONDS = 180
_DEFAULTS = ("id_ed25519_sk", "id_ecdsa_sk", "id_ed25519", "id_ecdsa", "id_rsa")


class SigningError(RefusedError):
    """ssh-keygen did not sign."""


def sign(message: bytes, *, key: Path, namespace: str) -> str:
    """An armored SSH signature.

    Args:
        key: a private key's file, or a public key's whose private half an agent or a security key holds.

    Raises:
        SigningError: refused, no touch, no passphrase.
        ConfigError: no ssh-keygen on PATH, or no such key.
    """
    program = shutil.which("ssh-keygen")
    if program is None:
        raise ConfigError("ssh-keygen is not installed", hint="apt install openssh-client")
    if not key.exists():
        raise ConfigError(f"there is no key {key}", hint="--key names an SSH key, private or .pub")
    try:
        done = subprocess.run(
            [program, "-Y", "sign", "-q", "-f", str(key), "-n", namespace],
            input=message,
            stdout=subprocess.PIPE,
            timeout=SIGN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SigningError(
            f"{key} did not sign within {SIGN_SECONDS} s", hint="does the key wait for a touch?"
        ) from error
    if done.returncode != 0 or not done.stdout:
        raise SigningError(
            f"ssh-keygen did not sign with {key}",
            hint="is the key in the agent (ssh-add -L), or its file readable?",
        )
    return done.stdout.decode("ascii", "replace")


def choose_key(given: Path | None, *, environ: Mapping[str, str] = os.environ) -> Path:
    """The key that was named, or the first of ssh's usual ones.

    Raises:
        ConfigError: none is there.
    """
    if given is not None:
        return given.expanduser()
    folder = Path(environ.get("HOME", "~")).expanduser() / ".ssh"
    for name in _DEFAULTS:
        for path in (folder / name, folder / f"{name}.pub"):
            if path.exists():
                return path
    raise ConfigError(
        "no SSH key found in ~/.ssh", hint="name one: --key FILE (private, or .pub with an agent)"
    )


def read_public_key(path: Path) -> PublicKey:
    """The public key in a .pub file, or beside a private one.

    Raises:
        ConfigError: not readable.
        SignatureError: not an SSH public key.
    """
    beside = path.with_name(path.name + ".pub")
    chosen = beside if path.suffix != ".pub" and beside.exists() else path
    try:
        return PublicKey.parse(chosen.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the public key {chosen}: {error}", hint="an SSH key's .pub file"
        ) from error
