"""Plain Tang over HTTP, as `curl -sf` carries it for clevis: post, take any 2xx body, follow nothing.

Where this differs from curl: an answer has a size limit and a time-out, and a redirect is named instead of parsed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from unlatch.bootstrap.http import RequestsHttp
from unlatch.errors import (
    BusyError,
    ConfigError,
    PolicyRefusedError,
    UnknownKeyError,
    UnlatchError,
    UnreachableError,
    UntrustedGateError,
)


@dataclass(frozen=True, slots=True)
class PlainTransport:
    """Speaks Tang's protocol. `timeout`: seconds for an answer; None waits as clevis does."""

    timeout: float | None = 30.0

    def recover(
        self,
        *,
        url: str,
        kid: str,
        request: bytes,
        thumbprint: str,
        signing_keys: Sequence[Mapping[str, object]],
    ) -> bytes:
        """Post a point to `URL/rec/KID`; see `pins.tang.Transport`."""
        del thumbprint, signing_keys  # plain Tang signs no receipt
        return self._exchange("POST", f"{url}/rec/{kid}", shown=url, body=request)

    def advertisement(self, url: str, *, thumbprint: str = "") -> bytes:
        """Fetch `URL/adv/THUMBPRINT`, a JWS in JSON.

        Raises:
            UnreachableError: no answer, or a failure of the server.
            UnknownKeyError: the server has no such key.
        """
        return self._exchange("GET", f"{url}/adv/{thumbprint}", shown=url, body=None)

    def _exchange(self, method: str, address: str, *, shown: str, body: bytes | None) -> bytes:
        shown = without_userinfo(shown)
        address = address if "://" in address else f"http://{address}"
        if _scheme(address) not in ("http", "https"):
            raise ConfigError(f"{shown} is no http or https address")
        headers = {"Content-Type": "application/jwk+json"} if body is not None else {}
        reply = RequestsHttp().send(method, address, headers=headers, body=body, seconds=self.timeout)
        if not 200 <= reply.status < 300:
            raise _refusal(reply.status, shown)
        return reply.body


def without_userinfo(url: str) -> str:
    """Give an address without the name and password that it may hold: for messages."""
    scheme, separator, rest = url.rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _scheme(address: str) -> str:
    try:
        return urlsplit(address).scheme
    except ValueError:
        return ""


def _refusal(status: int, shown: str) -> UnlatchError:
    if 300 <= status < 400:
        return UntrustedGateError(
            f"{shown} redirects (HTTP {status}), which Tang never does",
            hint="a login page or a move to another address: check the address that the file was sealed to",
        )
    if status == 404:
        return UnknownKeyError(
            f"{shown} does not know the key (HTTP 404)",
            hint="the key was retired there, or the address is another's",
        )
    if status == 403:
        return PolicyRefusedError(f"{shown} refuses to use the key (HTTP 403)", hint="ask who runs it")
    if status in (429, 503):
        return BusyError(f"{shown} is busy (HTTP {status})", hint="try again later")
    return UnreachableError(f"{shown} answered HTTP {status}", hint="look at its log, then try again")
