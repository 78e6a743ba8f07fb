"""Names of keys in tokens: PKCS#11 URIs, read, written and criticised.

Pure. Source: RFC 7512. Query attributes that other programs put into the path are read there too (clevis writes
`pkcs11:module-path=…`), with advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote_from_bytes, unquote_to_bytes

from unlatch.errors import ConfigError

SCHEME = "pkcs11:"
MAX_CHARACTERS = 2048
PATH_TEXTS = ("token", "manufacturer", "serial", "model", "object", "type")
QUERY = ("module-path", "module-name", "pin-source", "pin-value")
IGNORED = (
    "library-manufacturer", "library-description", "library-version", "slot-description", "slot-manufacturer",
)  # fmt: skip
TYPES = ("private", "public", "cert", "secret-key", "data")
_PLAIN = re.compile(r"[A-Za-z0-9\-._~:\[\]@!$'()*+,=&/?%]*")
"""RFC 7512 section 2.3, pk11-pchar and pk11-qchar together, and percent-encoding."""
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
UNRESERVED = b"-._~:[]@!$'()*+,="


@dataclass(frozen=True, slots=True)
class TokenUri:
    """A key, or a place for keys, in a token. What is None matches everything."""

    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    object: str | None = None
    id: bytes | None = None
    type: str | None = None
    slot_id: int | None = None
    module_path: str | None = None
    module_name: str | None = None
    pin_source: str | None = None
    pin_value: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URI.

        Raises:
            ConfigError: it is none, names an attribute twice, or one that is not known.
        """
        values: dict[str, str | bytes | int] = {}
        for name, raw, _ in _attributes(text):
            if name in IGNORED or name.startswith("x-"):
                continue
            if name.replace("-", "_") in values:
                raise _wrong(f"{name} stands twice")
            values[name.replace("-", "_")] = _value(name, raw)
        return cls(**values)  # type: ignore[arg-type]  # _value gives what each attribute needs

    @property
    def public_text(self) -> str:
        """The URI without its PIN, for messages and files."""
        return self.text(pin=False)

    def text(self, *, pin: bool = False) -> str:
        """Write the URI."""
        path: list[str] = []
        for name in PATH_TEXTS:
            value = getattr(self, name)
            if value is not None:
                path.append(f"{name}={_encoded(value.encode())}")
        if self.id is not None:
            path.append("id=" + "".join(f"%{byte:02X}" for byte in self.id))
        if self.slot_id is not None:
            path.append(f"slot-id={self.slot_id}")
        query: list[str] = []
        for name in QUERY:
            value = getattr(self, name.replace("-", "_"))
            if value is not None and (pin or name != "pin-value"):
                query.append(f"{name}={_encoded(value.encode(), b'/')}")
        return SCHEME + ";".join(path) + ("?" + "&".join(query) if query else "")


def lint(text: str) -> list[str]:
    """Say what is wrong or unwise about a URI, one sentence each; nothing when all is well."""
    advice: list[str] = []
    names: set[str] = set()
    try:
        attributes = list(_attributes(text))
    except ConfigError as error:
        return [str(error)]
    for name, raw, part in attributes:
        names.add(name)
        advice += _lint_one(name, raw, part)
    if names & {"object", "id"} and "type" not in names:
        advice.append("type=private is missing: a certificate or public key of the same name may be meant")
    if not names & {"token", "serial", "slot-id"}:
        advice.append("no token is named: the first token with such a key is used")
    if "slot-id" in names and not names & {"token", "serial"}:
        advice.append("slot-id may change at every start: name the token")
    try:
        TokenUri.parse(text)
    except ConfigError as error:
        advice.append(str(error))
    return list(dict.fromkeys(advice))


def _lint_one(name: str, raw: str, part: str) -> Iterator[str]:
    renamed = {
        "label": "object",
        "pin": "pin-source",
        "slot": "slot-id",
        "object-type": "type",
        "objecttype": "type",
    }
    if name in renamed:
        yield f"{name}= is not known: RFC 7512 calls it {renamed[name]}="
    if name == "id" and "%" not in raw:
        yield f"id={raw} means the characters themselves: write bytes as id=%{raw[:2] or '01'}"
    if name == "type" and raw not in TYPES:
        yield f"type={raw} is not one of {', '.join(TYPES)}"
    if name == "pin-value":
        yield "pin-value stands in clear in every file and log that holds the URI: use pin-source, or seal the PIN"
    if name in QUERY and part == "path":
        yield f"{name} belongs behind a question mark: …?{name}=…"
    if not _PLAIN.fullmatch(raw):
        yield f"{name} holds characters that must be percent-encoded: {_encoded(raw.encode())}"


def _attributes(text: str) -> Iterator[tuple[str, str, str]]:
    """Name, raw value, and "path" or "query"."""
    if not text[: len(SCHEME)].lower() == SCHEME:
        raise _wrong("it does not begin with pkcs11:")
    if len(text) > MAX_CHARACTERS or not text.isprintable():
        raise _wrong("it is too long or holds control characters")
    path, _, query = text[len(SCHEME) :].partition("?")
    for part, body, separator in (("path", path, ";"), ("query", query, "&")):
        for one in body.split(separator) if body else ():
            name, equals, raw = one.partition("=")
            if not equals:
                raise _wrong(f"{_shown(name)} has no value")
            yield name, raw, part


def _value(name: str, raw: str) -> str | bytes | int:
    if _ESCAPE.search(raw):
        raise _wrong(f"{name} holds a % that begins no escape")
    data = unquote_to_bytes(raw)
    if name == "id":
        return data
    if name == "slot-id":
        if not re.fullmatch(r"[0-9]{1,19}", raw):
            raise _wrong("slot-id is no number")
        return int(raw)
    if name not in PATH_TEXTS + QUERY:
        raise _wrong(f"attribute {_shown(name)} is not known")
    try:
        value = data.decode()
    except UnicodeDecodeError as error:
        raise _wrong(f"{name} is not UTF-8") from error
    if "\0" in value:
        raise _wrong(f"{name} holds a zero byte")
    if name == "type" and value not in TYPES:
        raise _wrong(f"type is not one of {', '.join(TYPES)}")
    return value


def _encoded(value: bytes, further: bytes = b"") -> str:
    return quote_from_bytes(value, safe=UNRESERVED + further)


def _shown(name: str) -> str:
    return name if re.fullmatch(r"[a-z0-9\-]{1,32}", name) else "(unprintable)"


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"PKCS#11 URI: {what}", hint="pkcs11:token=prod;object=site;type=private (RFC 7512)")
