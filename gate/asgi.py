"""The few ASGI pieces that both listeners share: types, a bounded body, one reply."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_READ_BYTES = 64 * 1024


class DisconnectedError(Exception):
    """The client closed its end."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response. Headers are Content-Type (with a body), Content-Length, and what `extra` names."""

    status: int
    body: bytes = b""
    media_type: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(
        cls, status: int, value: Mapping[str, Any], *, extra: Mapping[str, str] | None = None
    ) -> Reply:
        """A JSON object."""
        return cls(status, json.dumps(value, separators=(",", ":")).encode(), "application/json", extra or {})

    async def send(self, send: Send) -> None:
        """Write it out."""
        headers = [(name.encode(), value.encode()) for name, value in self.extra.items()]
        if self.media_type and self.body:
            headers.append((b"Content-Type", self.media_type.encode()))
        headers.append((b"Content-Length", str(len(self.body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


async def read_body(receive: Receive, *, limit: int) -> bytes:
    """The request's body, of which at most `limit` + 1 bytes are kept.

    What goes on after 64 KiB is not waited for: the answer leaves, and the connection is closed.

    Raises:
        DisconnectedError: the client went away before the end.
    """
    body = bytearray()
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        piece = message.get("body", b"")
        size += len(piece)
        body += piece[: limit + 1 - len(body)]
        if not message.get("more_body", False) or size > MAX_READ_BYTES:
            return bytes(body)


async def until_disconnect(receive: Receive) -> None:
    """Returns when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def header(scope: Scope, name: str) -> str | None:
    """The first header of a name, None where there is none or it is no ASCII."""
    wanted = name.lower().encode()
    for key, value in scope["headers"]:
        if key == wanted and value.isascii():
            return str(value.decode("ascii"))
    return None


def raw_target(scope: Scope) -> str:
    """The request target as it came, percent signs and query string included."""
    query = scope.get("query_string", b"")
    target = scope["raw_path"] + (b"?" + query if query else b"")
    return str(target.decode("latin-1"))


def peer(scope: Scope) -> str:
    """The address of the other end."""
    client = scope.get("client")
    return client[0] if client else "unknown"


def source_of(address: str) -> str:
    """Who counts as one source for limits: an IPv4 address, or the /64 that one IPv6 host may choose from."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
