"""Sealed rules (`use`) from flags and files: spelled one way, with CAs as digests.

What a rule may say is decided by the same Rust code that guard enforces it with; here only spelling is helped.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from unlatch.bootstrap import jose
from unlatch.errors import ConfigError

CALLERS_HINT = "say who may use the token: --caller anyone, a network, uid=1000, or ca=FILE,san=NAME"


TICKET_RULES: dict[str, object] = {"mode": "per-node"}
"""The one rule that there is for a ticket secret: a node gets its own keys, guard opens the others' tickets."""


def key_rules(names: Iterable[str], roles: Iterable[str] = ()) -> dict[str, object]:
    """Give the rules of a key; without roles, of a server's that renews its own certificate."""
    rules: dict[str, object] = {"roles": list(roles) or ["server", "csr"]}
    named = [name.lower() for name in names]
    return {"names": named} | rules if named else rules


def jwt_rules(
    names: Iterable[str], claims: Mapping[str, object], destination: Mapping[str, object]
) -> dict[str, object]:
    """Give the rules of a key that signs JWTs for requests to one upstream; names are for a request's sake."""
    return key_rules(names, ["jwt"]) | {"jwt": {**claims, "for": dict(destination)}}


def pin_rules(hardware: str) -> dict[str, object]:
    """Give the rules of a PIN: the one token that it opens, as configurations name it.

    Raises:
        ConfigError: the URI carries a PIN or names a key.
    """
    from unlatch.memguard.custodian.plan import token_of
    from unlatch.memguard.custodian.uri import TokenUri

    uri = TokenUri.parse(hardware)
    if uri.pin_value is not None or uri.pin_source is not None:
        raise ConfigError("the URI of the hardware carries a PIN", hint="leave it out: --pin asks for it")
    return {"hardware": token_of(uri).text()}


def token_rules(
    *,
    upstream: str,
    callers: Iterable[str],
    ca_files: Iterable[Path] = (),
    methods: Iterable[str] = (),
    paths: Iterable[str] = (),
    header: str = "Authorization",
    scheme: str = "bearer",
    sign: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Give a token's rules from flags; absent methods, paths and CAs set no limit.

    With `sign` the token is a key: what guard computes from it goes out, itself never.

    Raises:
        ConfigError: a flag does not make sense.
    """
    rules: dict[str, object] = {
        "upstream": _origin(upstream),
        "place": {"header": header, "scheme": scheme},
        "callers": [_caller(text) for text in callers],
    }
    digests = [digest for file in ca_files for digest in ca_digests(file)]
    rules |= {"ca": digests} if digests else {}
    rules |= {"methods": [method.upper() for method in methods]} if methods else {}
    rules |= {"paths": list(paths)} if paths else {}
    rules |= {"sign": dict(sign)} if sign is not None else {}
    if not rules["callers"]:
        raise ConfigError("a token needs at least one caller", hint=CALLERS_HINT)
    return rules


def read_rules(rules: Mapping[str, object], *, folder: Path) -> dict[str, object]:
    """Take rules from a file: `ca` and callers' `ca` may name PEM files, which become digests.

    Args:
        rules: one secret's `use`.
        folder: what relative names start from.
    """
    taken = dict(rules)
    jwt = taken.get("jwt")
    if isinstance(jwt, dict) and isinstance(jwt.get("for"), dict):
        taken["jwt"] = jwt | {"for": read_rules(jwt["for"], folder=folder)}
    if "ca" in taken:
        cas = taken["ca"] if isinstance(taken["ca"], list) else [taken["ca"]]
        taken["ca"] = [digest for ca in cas for digest in _ca(str(ca), folder)]
    callers = taken.get("callers")
    if isinstance(callers, list):
        taken["callers"] = [rule for caller in callers for rule in _file_caller(caller, folder)]
    return taken


def ca_digests(file: Path) -> list[str]:
    """Give SHA-256 of the SubjectPublicKeyInfo, base64url, of every certificate in a PEM file.

    Raises:
        ConfigError: the file does not exist or holds no certificate.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the CA's certificate: {error.strerror}, {file}") from error
    except ValueError as error:
        raise ConfigError(f"no certificate in PEM: {file}") from error
    spkis = (
        one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for one in certificates
    )
    return list(dict.fromkeys(jose.encode(hashlib.sha256(spki).digest()) for spki in spkis))


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError as error:
        raise ConfigError(f"upstream {url!r} is no address") from error
    if (
        parts.scheme != "https"
        or not host
        or parts.path.strip("/")
        or parts.query
        or parts.username is not None
    ):
        raise ConfigError(
            f"upstream {url!r} is not https://HOST[:PORT]",
            hint="a token travels over verified TLS only; paths go to --path",
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _caller(text: str) -> object:
    if text == "anyone":
        return text
    if text.startswith("uid="):
        if not text[4:].isdecimal():
            raise ConfigError(f"caller {text!r}: uid is a number", hint=CALLERS_HINT)
        return {"uid": int(text[4:])}
    if text.startswith("ca="):
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        if not fields.keys() <= {"ca", "san"}:
            raise ConfigError(f"caller {text!r}: only ca= and san= go together", hint=CALLERS_HINT)
        digests = ca_digests(Path(fields["ca"]))
        if len(digests) != 1:
            raise ConfigError(f"caller {text!r}: the file holds {len(digests)} CAs, expected 1")
        return {"ca": digests[0]} | ({"san": fields["san"]} if "san" in fields else {})
    return _network(text)


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ConfigError(f"caller {text!r}: {error}", hint=CALLERS_HINT) from error


def _ca(value: str, folder: Path) -> list[str]:
    return [value] if _is_digest(value) else ca_digests(folder / value)


def _file_caller(caller: object, folder: Path) -> list[object]:
    if isinstance(caller, dict) and isinstance(caller.get("ca"), str):
        return [caller | {"ca": digest} for digest in _ca(caller["ca"], folder)]
    return [caller]


def _is_digest(value: str) -> bool:
    try:
        return len(jose.decode(value)) == 32
    except ValueError:
        return False
