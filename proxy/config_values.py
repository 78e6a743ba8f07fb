"""How values of the configuration are written: durations, sizes, addresses, names of keys, patterns."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+)(KiB|MiB|B)?")
_SIZE_UNITS = {None: 1, "B": 1, "KiB": 1024, "MiB": 1024 * 1024}
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.IGNORECASE)


def parse_duration(value: object) -> float:
    """Seconds from `500ms`, `10s`, `5m` or `1h`."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration is a number with ms, s, m or h, such as 10s")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def parse_size(value: object) -> int:
    """Bytes from `512`, `64KiB` or `1MiB`."""
    match = (
        _SIZE.fullmatch(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    )
    if match is None:
        raise ValueError("a size is a number with B, KiB or MiB, such as 64KiB")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:80`, `[::1]:80` or `name:80`."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or not 0 <= int(port) <= 65535 or not host:
        raise ValueError(f"{text!r} is not host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, [::1]:443")
    return host, int(port)


def _bind_address(text: str) -> str:
    host, _ = split_address(text)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{text!r}: a listener binds to an IP address, not to a name") from None
    return text


def _server_address(text: str) -> str:
    _, port = split_address(text)
    if port == 0:
        raise ValueError(f"{text!r}: port 0 is no server")
    return text


def _sealed_name(text: str) -> str:
    if not re.fullmatch(r"sealed:[A-Za-z0-9._-]{1,64}", text):
        raise ValueError(f"{text!r} is not sealed:NAME")
    return text


def _key_name(text: str) -> str:
    kind = text.partition(":")[0]
    if kind == "sealed":
        return _sealed_name(text)
    if kind not in ("pkcs11", "file") or len(text) <= len(kind) + 1:
        raise ValueError(f"{text!r} is not sealed:NAME, pkcs11:URI or file:PATH of a key in hardware")
    return text


def _host_pattern(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is not a host name or *.name")
    return text.lower()


def _path_pattern(text: str) -> str:
    if (
        not text.startswith("/")
        or "*" in text.removesuffix("*")
        or (text.endswith("*") and not text.endswith("/*"))
    ):
        raise ValueError(f"{text!r}: a path starts with / and may end with /*")
    return text


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": ["string", "number"], "examples": ["500ms", "10m"]}),
]
Size = Annotated[
    int, BeforeValidator(parse_size), WithJsonSchema({"type": ["string", "integer"], "examples": ["64KiB"]})
]
BindAddress = Annotated[str, AfterValidator(_bind_address)]
ServerAddress = Annotated[str, AfterValidator(_server_address)]
KeyName = Annotated[str, AfterValidator(_key_name)]
SealedName = Annotated[str, AfterValidator(_sealed_name)]
HostPattern = Annotated[str, AfterValidator(_host_pattern)]
PathPattern = Annotated[str, AfterValidator(_path_pattern)]
Digest = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_-]{43}$", description="43 characters of base64url: a SHA-256")
]
