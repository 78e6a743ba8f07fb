"""Which PKCS#11 module to load, and which not: loading a library runs it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from unlatch.errors import ConfigError
from unlatch.memguard.custodian.uri import TokenUri

P11_KIT_PROXY = "p11-kit-proxy.so"
FOLDERS = (
    "/usr/lib/pkcs11", "/usr/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu/pkcs11", "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/pkcs11", "/usr/lib64", "/usr/lib64/pkcs11", "/usr/lib", "/usr/lib/softhsm",
    "/usr/local/lib", "/usr/local/lib/softhsm", "/opt/homebrew/lib",
)  # fmt: skip


def find_module(uri: TokenUri, configured: str | None = None) -> str:
    """Say which module to load: as configured, as the URI says, UNLATCH_PKCS11_MODULE, else all of p11-kit's.

    Raises:
        ConfigError: there is no such file, or others than its owner may change it.
    """
    name = configured or uri.module_path or os.environ.get("UNLATCH_PKCS11_MODULE") or _named(uri.module_name)
    if "/" in name:
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"no PKCS#11 module {name}", hint="module-path= names the library's file")
        refuse_foreign(path)
        return str(path)
    found = next((Path(folder) / name for folder in FOLDERS if (Path(folder) / name).is_file()), None)
    if found is None:
        hint = (
            "name one with ?module-path=/usr/lib/…, or install p11-kit-modules, which finds all that are set up"
            if name == P11_KIT_PROXY
            else f"looked into {', '.join(FOLDERS[:3])} and others: give its whole path"
        )
        raise ConfigError(f"no PKCS#11 module {name}", hint=hint)
    return str(found)


def _named(module_name: str | None) -> str:
    if not module_name:
        return P11_KIT_PROXY
    return module_name if ".so" in module_name or ".dylib" in module_name else f"{module_name}.so"


def refuse_foreign(path: Path) -> None:
    """Refuse a library that somebody else than root or this user can change: loading it runs it.

    A header names its module before anything authenticated it.

    Raises:
        ConfigError: the file or a folder above it is writable for others.
    """
    resolved = path.resolve()
    for part in (resolved, *resolved.parents):
        facts = part.stat()
        # In a sticky folder nobody renames or removes what is not theirs.
        shared = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not facts.st_mode & stat.S_ISVTX
        if facts.st_uid not in (0, os.geteuid()) or shared:
            raise ConfigError(
                f"PKCS#11 module {path} is not loaded: others may change {part}",
                hint="install it where only root writes",
            )
