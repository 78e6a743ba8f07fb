"""A custodian's configuration: JSON from the supervisor (docs/protocol.md, section "Custodian")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from unlatch.errors import ConfigError
from unlatch.memguard.custodian import keyfile, pkcs11, tpm2
from unlatch.memguard.custodian.keyfile import TpmKey
from unlatch.memguard.custodian.serve import Limits
from unlatch.memguard.custodian.uri import TokenUri

Sockets = Literal["none", "unix", "network"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Parsed once."""

    kind: Literal["pkcs11", "tpm2"]
    module: str | None
    parameters: str | None
    token: TokenUri
    tcti: str | None
    token_keys: tuple[pkcs11.Wanted, ...]
    tpm_keys: tuple[tpm2.Wanted, ...]
    sessions: int
    limits: Limits
    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    sockets: Sockets

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the JSON.

        Raises:
            ConfigError: a member is missing or wrong.
        """
        try:
            value = json.loads(data)
            kind = value["kind"]
            if kind not in ("pkcs11", "tpm2"):
                raise ValueError("kind")
            keys = value["keys"]
            token_keys = tuple(_token_key(one) for one in keys) if kind == "pkcs11" else ()
            tpm_keys = tuple(_tpm_key(one) for one in keys) if kind == "tpm2" else ()
            sockets = value.get("sockets", "none")
            if sockets not in ("none", "unix", "network"):
                raise ValueError("sockets")
            files: Mapping[str, list[str]] = value.get("files", {})
            return cls(
                kind,
                value["module"] if kind == "pkcs11" else None,
                value.get("parameters"),
                TokenUri.parse(value.get("token", "pkcs11:")),
                value.get("tcti"),
                token_keys,
                tpm_keys,
                _number(value, "sessions", 4, 1, 64),
                Limits(
                    queue=_number(value, "queue", 64, 1, 4096),
                    deadline=_number(value, "deadline_ms", 2000, 50, 60_000) / 1000,
                    hang=_number(value, "hang_ms", 10_000, 100, 600_000) / 1000,
                ),
                tuple(Path(one) for one in files.get("read", [])),
                tuple(Path(one) for one in files.get("write", [])),
                sockets,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"custodian's configuration: {type(error).__name__} at {error}") from error


def _token_key(value: Mapping[str, Any]) -> pkcs11.Wanted:
    return pkcs11.Wanted(_id(value), str(value["name"]), TokenUri.parse(value["uri"]))


def _tpm_key(value: Mapping[str, Any]) -> tpm2.Wanted:
    key = keyfile.find(str(value["pem"]).encode())
    if not isinstance(key, TpmKey):
        raise ConfigError(f"{value['name']}: no TSS2 PRIVATE KEY in its file")
    return tpm2.Wanted(_id(value), str(value["name"]), key)


def _id(value: Mapping[str, Any]) -> int:
    return _number(value, "id", None, 0, 65535)


def _number(value: Mapping[str, Any], name: str, default: int | None, low: int, high: int) -> int:
    found = value.get(name, default)
    if type(found) is not int or not low <= found <= high:
        raise ValueError(f"{name} outside {low} to {high}")
    return found
