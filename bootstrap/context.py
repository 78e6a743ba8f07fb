"""Gates that were looked at and trusted once, kept under names: `$XDG_CONFIG_HOME/unlatch/gates/NAME.json`.

Rule 1: a context is made by `gate trust` only, with a thumbprint compared by a person (or, said aloud, on first use).
Rule 2: what it pins is never updated from the network.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from unlatch.bootstrap import jose
from unlatch.bootstrap.approval.receipt import split_gate_url
from unlatch.bootstrap.jose import Jwk
from unlatch.errors import ConfigError, UntrustedGateError

MAX_BYTES = 256 * 1024
TRUST_HINT = "unlatch gate trust URL --thp THUMBPRINT"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class Context:
    """A trusted gate (or plain Tang server).

    `thumbprints` are those of the signing keys that were pinned, `keys` the keys themselves; `people`, `genesis`, `log`
    and `clock` are None for a plain Tang server. `advertisement` is the signed body that all of it came from; `trust`
    says how it was won: ``pinned`` or ``first use``.
    """

    name: str
    url: str
    thumbprints: tuple[str, ...]
    keys: tuple[Jwk, ...]
    advertisement: str
    trust: str
    people: str | None = None
    genesis: str | None = None
    log: str | None = None
    clock: str | None = None

    @classmethod
    def from_advertisement(cls, body: bytes, *, name: str, url: str, thumbprint: str | None) -> Self:
        """The context of a gate, from its advertisement.

        Args:
            thumbprint: of a signing key, as the person compared it; None trusts on first use.

        Raises:
            UntrustedGateError: not signed by each of its keys, or not by the pinned one.
        """
        payload = _verified(body)
        keys = tuple(key for key in payload["keys"] if jose.may(key, "verify"))
        found = tuple(jose.thumbprint(key) for key in keys)
        if thumbprint is not None and thumbprint not in found:
            raise UntrustedGateError(
                f"{url} is not signed by the pinned key (wants {thumbprint}, got {', '.join(found)})",
                hint="compare with `unlatch gate keys` on the gate itself",
            )
        facts = payload.get("unlatch")
        facts = facts if isinstance(facts, dict) else {}
        texts = {
            key: facts[key]
            for key in ("people", "genesis", "log", "clock")
            if isinstance(facts.get(key), str)
        }
        origin = facts.get("origin")
        return cls(
            name=check_name(name),
            url=origin if isinstance(origin, str) else url,
            thumbprints=found if thumbprint is None else (thumbprint,),
            keys=keys,
            advertisement=body.decode(),
            trust="first use" if thumbprint is None else "pinned",
            **texts,
        )

    def save(self, folder: Path) -> Path:
        """Write it, readable by its owner only."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        temporary = folder / f".{self.name}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(self), file, indent=1)
        temporary.replace(path)
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a saved one.

        Raises:
            ConfigError: not there, or not one of ours.
        """
        try:
            data = path.read_bytes()[:MAX_BYTES]
            members = jose.read_json(data.decode())
            if not isinstance(members, dict):
                raise TypeError("not an object")
            members |= {name: tuple(members[name]) for name in ("thumbprints", "keys")}
            return cls(**members)
        except FileNotFoundError as error:
            raise ConfigError(f"no gate is trusted under the name {path.stem}", hint=TRUST_HINT) from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"the saved gate {path} cannot be read", hint="delete it and trust the gate again"
            ) from error


def contexts_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where contexts are kept."""
    return _home(environ, "XDG_CONFIG_HOME", ".config") / "unlatch" / "gates"


def state_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where sessions and the last audit checkpoints are kept."""
    return _home(environ, "XDG_STATE_HOME", ".local/state") / "unlatch" / "gates"


def list_contexts(environ: Mapping[str, str] = os.environ) -> list[Context]:
    """Every trusted gate, by name."""
    folder = contexts_folder(environ)
    return [Context.load(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []


def find_context(name: str | None, environ: Mapping[str, str] = os.environ) -> Context:
    """The trusted gate of a name or address; the only one, where neither is given.

    Raises:
        ConfigError: there is none, or several and no name.
    """
    if name is not None and "://" in name:
        return _find_address(split_gate_url(name)[0], environ)
    if name is not None:
        return Context.load(contexts_folder(environ) / f"{check_name(name)}.json")
    contexts = list_contexts(environ)
    if len(contexts) == 1:
        return contexts[0]
    if not contexts:
        raise ConfigError("no gate is trusted yet", hint=TRUST_HINT)
    names = ", ".join(context.name for context in contexts)
    raise ConfigError(f"several gates are trusted: {names}", hint="choose one with --gate NAME")


def _find_address(address: str, environ: Mapping[str, str]) -> Context:
    for context in list_contexts(environ):
        if address in (context.url, context.people):
            return context
    raise ConfigError(f"{address} is not trusted yet", hint=f"unlatch gate trust {address} --thp THUMBPRINT")


def check_name(name: str) -> str:
    """Refuse what cannot be a context's name."""
    if not _NAME.match(name):
        raise ConfigError(f"{name!r} is no name for a gate", hint="1 to 64 of a-z 0-9 . _ -")
    return name


def _home(environ: Mapping[str, str], variable: str, default: str) -> Path:
    given = environ.get(variable)
    return Path(given) if given else Path(environ.get("HOME", "~")).expanduser() / default


def _verified(body: bytes) -> dict[str, Any]:
    from jwcrypto import jwk, jws
    from jwcrypto.common import JWException

    try:
        document = jose.read_json(body.decode())
        payload = jose.read_json(jose.decode(document["payload"]))  # type: ignore[index]
        keys = [key for key in payload["keys"] if jose.may(key, "verify")]  # type: ignore[index]
        for key in keys:
            checked = jws.JWS()
            checked.allowed_algs = ["ES256", "ES384", "ES512"]
            checked.deserialize(body.decode())
            # jwcrypto is content with one valid signature of several: ask for each key.
            checked.verify(jwk.JWK(**{name: key[name] for name in ("kty", "crv", "x", "y")}))
    except (ValueError, TypeError, KeyError, JWException) as error:
        raise UntrustedGateError(
            "the gate's advertisement is none, or not signed by each of its keys",
            hint="is this address a gate? a web proxy or log-in page may answer in its place",
        ) from error
    if not keys:
        raise UntrustedGateError("the gate advertises no signing key", hint="is this address a gate?")
    assert isinstance(payload, dict)
    return payload
