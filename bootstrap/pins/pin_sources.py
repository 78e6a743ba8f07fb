"""Where the PIN of a token comes from when a sealed file is opened; never from a place that the file's header names.

In this order: `$UNLATCH_PKCS11_PIN_FILE`, `$CREDENTIALS_DIRECTORY/pkcs11-pin` (systemd's ramfs), the PIN that clevis wrote
into its own files in clear, the terminal.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from unlatch.bootstrap import prompt
from unlatch.bootstrap.files import read_secret
from unlatch.errors import ConfigError
from unlatch.memguard._native import Secret
from unlatch.memguard.custodian.uri import TokenUri

MAX_PIN_FILE_BYTES = 4096
VARIABLE = "UNLATCH_PKCS11_PIN_FILE"


def unattended(uri: TokenUri) -> Secret:
    """Give the PIN without asking anybody.

    Raises:
        ConfigError: no place has one.
    """
    path = _file()
    if path is not None:
        secret = read_secret(path, MAX_PIN_FILE_BYTES)
        secret.strip_newline()
        return secret
    if uri.pin_value is not None:
        return Secret.copy_from(uri.pin_value.encode())
    raise ConfigError(
        f"no PIN for {uri.public_text}",
        hint=f"give it as the systemd credential pkcs11-pin, or name a file in {VARIABLE}",
    )


def interactive(uri: TokenUri) -> Secret:
    """Give the PIN, asking at the terminal where no other place has one."""
    if _file() is None and uri.pin_value is None and sys.stdin.isatty():
        return prompt.ask(f"PIN of {uri.public_text}: ", hint=f"name a file in {VARIABLE}")
    return unattended(uri)


def _file() -> Path | None:
    if named := os.environ.get(VARIABLE):
        return Path(named)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(folder) / "pkcs11-pin" if folder else None
    return credential if credential is not None and credential.exists() else None
