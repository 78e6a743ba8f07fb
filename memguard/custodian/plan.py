"""Which custodians a configuration needs: one per token of a module, one for the TPM.

Pure. The supervisor gives each key's reference, as configured, and gets the configurations of the processes to start and
where each key will be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unlatch.errors import ConfigError
from unlatch.memguard.custodian import keyfile
from unlatch.memguard.custodian.keyfile import TokenKey
from unlatch.memguard.custodian.uri import TokenUri


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key will be."""

    custodian: int
    """Position in the list of configurations."""
    key: int
    """Its id there."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may set for a module; the defaults are those of docs/protocol.md."""

    parameters: str | None = None
    sessions: int = 4
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    sockets: Literal["none", "unix", "network"] | None = None


NO_OPTIONS = Options()


def plan(
    references: Mapping[str, bytes], *, tcti: str | None = None, options: Mapping[str, Options] | None = None
) -> tuple[list[dict[str, Any]], dict[str, Place]]:
    """Group keys by the hardware that holds them.

    Args:
        references: for each key's name: a PKCS#11 URI, or the content of a file that names one key in hardware.
        tcti: how the TPM is reached; None for the kernel's device.
        options: by module, as its path or name stands in the URIs ("" for URIs without one).

    Raises:
        ConfigError: a reference that names no key in hardware, or carries a PIN.
    """
    configs: list[dict[str, Any]] = []
    where: dict[object, int] = {}
    places: dict[str, Place] = {}
    for name, reference in references.items():
        key = _key(name, reference)
        group: object
        if isinstance(key, TokenKey):
            module = key.uri.module_path or key.uri.module_name or ""
            token = token_of(key.uri)
            group, entry = (module, token), {"name": name, "uri": key.uri.public_text}
            fresh = _for_module(token, (options or {}).get(module, NO_OPTIONS), module)
        else:
            group, entry = "tpm", {"name": name, "pem": keyfile.write_tpm(key).decode()}
            fresh = {"kind": "tpm2", "tcti": tcti, "keys": [], "sockets": _sockets_of(tcti)}
        if group not in where:
            where[group] = len(configs)
            configs.append(fresh)
        keys = configs[where[group]]["keys"]
        places[name] = Place(where[group], len(keys) + 1)
        keys.append({"id": len(keys) + 1, **entry})
    return configs, places


def _key(name: str, reference: bytes) -> keyfile.HardwareKey:
    key = keyfile.find(reference)
    if key is None:
        raise ConfigError(
            f"{name} names no key in hardware",
            hint="a pkcs11: URI, or a PEM file with PKCS#11 PROVIDER URI or TSS2 PRIVATE KEY",
        )
    if isinstance(key, TokenKey) and (key.uri.pin_value is not None or key.uri.pin_source is not None):
        raise ConfigError(
            f"{name}: the URI carries a PIN", hint="seal the PIN as a secret, and leave it out here"
        )
    return key


def token_of(uri: TokenUri) -> TokenUri:
    """The token without the object in it."""
    return TokenUri(
        token=uri.token,
        manufacturer=uri.manufacturer,
        serial=uri.serial,
        model=uri.model,
        slot_id=uri.slot_id,
        module_path=uri.module_path,
        module_name=uri.module_name,
    )


def _for_module(token: TokenUri, options: Options, module: str) -> dict[str, Any]:
    # p11-kit reaches its modules' daemons over a UNIX socket.
    sockets = options.sockets or ("unix" if "p11-kit" in module or not module else "none")
    return {
        "kind": "pkcs11",
        "module": None,
        "parameters": options.parameters,
        "token": token.text(),
        "keys": [],
        "sessions": options.sessions,
        "files": {"read": list(options.read), "write": list(options.write)},
        "sockets": sockets,
    }


def _sockets_of(tcti: str | None) -> str:
    """A software TPM or a broker is reached by a socket, the kernel's device by none."""
    if tcti is None or tcti.startswith("device"):
        return "none"
    return "unix" if tcti.startswith("tabrmd") else "network"
