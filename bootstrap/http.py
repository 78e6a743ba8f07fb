"""HTTP for whoever asks a server: one request, one reply bounded in size and time, nothing followed.

`requests` is imported on first use. Its time-outs are for each read, so a server that sends a byte now and then could
hold it for ever: the whole exchange has a time-out of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from unlatch.bootstrap.pins.race import within
from unlatch.errors import UnreachableError, UntrustedGateError

MAX_REPLY_BYTES = 64 * 1024
CONNECT_SECONDS = 10.0
MAX_RETRY_AFTER = 3600.0
GRACE_SECONDS = 5.0  # connecting comes on top of a reply's own time


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A whole reply. Header names are in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        """A header's value."""
        return self.headers.get(name.lower())

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait, 1 to 3600; None where it names none (or a date)."""
        text = self.header("retry-after")
        try:
            seconds = float(text) if text is not None else math.nan
        except ValueError:
            return None
        return min(max(1.0, seconds), MAX_RETRY_AFTER) if math.isfinite(seconds) else None


class Http(Protocol):
    """Sends one request."""

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, seconds: float | None
    ) -> HttpReply:
        """Send and read the whole reply; None waits for ever.

        Raises:
            UnreachableError: no connection, no trusted TLS, or no reply within `seconds`.
            UntrustedGateError: a reply over 64 KiB.
        """
        ...


@dataclass(frozen=True, slots=True)
class RequestsHttp:
    """The network. Proxies come from the environment as for curl; ~/.netrc is left alone.

    Args:
        ca: a file of CA certificates (PEM) instead of the system's; REQUESTS_CA_BUNDLE works too.
    """

    ca: str | None = None

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, seconds: float | None
    ) -> HttpReply:
        """See `Http.send`."""
        whole = None if seconds is None else seconds + GRACE_SECONDS
        try:
            return within(whole, lambda: self._send(method, url, headers, body=body, seconds=seconds))
        except TimeoutError as error:
            raise UnreachableError(
                f"{_host(url)} does not answer in time", hint=_network_hint(error)
            ) from error

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], *, body: bytes | None, seconds: float | None
    ) -> HttpReply:
        import requests
        from requests.auth import HTTPBasicAuth
        from requests.utils import get_auth_from_url

        user, password = get_auth_from_url(url)
        try:
            with requests.Session() as session:
                session.auth = HTTPBasicAuth(user, password) if user or password else _as_it_is
                if self.ca is not None:
                    session.verify = self.ca
                with session.request(
                    method, url, headers=dict(headers), data=body, timeout=(min(CONNECT_SECONDS, seconds or CONNECT_SECONDS), seconds),
                    allow_redirects=False, stream=True,
                ) as response:  # fmt: skip
                    data = _read(response, url)
                    fields = {name.lower(): value for name, value in response.headers.items()}
                    return HttpReply(response.status_code, data, fields)
        except requests.exceptions.SSLError as error:
            raise UnreachableError(
                f"{_host(url)}: TLS is not trusted",
                hint="add its CA to the system's store, or set REQUESTS_CA_BUNDLE=FILE",
            ) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UnreachableError(f"{_host(url)} is not an address that can be asked") from error
        except (requests.RequestException, OSError) as error:
            raise UnreachableError(f"{_host(url)} does not answer", hint=_network_hint(error)) from error


def _network_hint(error: Exception) -> str:
    return f"check the address, the network and that the server runs ({type(error).__name__})"


def _read(response: Any, url: str) -> bytes:
    body = b""
    for piece in response.iter_content(16384):
        body += piece
        if len(body) > MAX_REPLY_BYTES:
            raise UntrustedGateError(f"{_host(url)} sent more than {MAX_REPLY_BYTES} bytes")
    return body


def _host(url: str) -> str:
    """Scheme, host and port: nothing that could be a password or a request."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


def _as_it_is(request: Any) -> Any:
    """Stands as `auth` so that requests takes no password from ~/.netrc."""
    return request
