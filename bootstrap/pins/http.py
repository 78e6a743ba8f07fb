"""Plain Tang over HTTP, as `curl -sf` carries it for clevis: post, take any 2xx body, follow nothing.

Where this differs from curl: an answer has a size limit and a time-out, and a redirect is named instead of parsed.
`requests` is imported at the first request only: it costs more than everything else that `open` needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from unlatch.errors import (
    BusyError,
    ConfigError,
    PolicyRefusedError,
    UnknownKeyError,
    UnlatchError,
    UnreachableError,
    UntrustedGateError,
)

if TYPE_CHECKING:
    import requests

MAX_ANSWER_BYTES = 64 * 1024
"""tangd's own limit for a request body; real answers have 300 bytes, advertisements 2000."""
CONNECT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class PlainTransport:
    """Speaks Tang's protocol. `timeout`: seconds without a byte; None waits as clevis does."""

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
        import requests

        shown = without_userinfo(shown)
        address = address if "://" in address else f"http://{address}"
        if _scheme(address) not in ("http", "https"):
            raise ConfigError(f"{shown} is no http or https address")
        headers = {"Content-Type": "application/jwk+json"} if body is not None else {}
        try:
            with requests.Session() as session:
                # Only what the address itself holds: requests would add a password from ~/.netrc, curl does not.
                session.auth = _userinfo(address)
                with session.request(
                    method,
                    address,
                    data=body,
                    headers=headers,
                    timeout=(CONNECT_TIMEOUT, self.timeout),
                    allow_redirects=False,
                    stream=True,
                ) as answer:
                    return _body(answer, shown)
        except requests.exceptions.SSLError as error:
            raise UnreachableError(
                f"{shown}: TLS certificate is not trusted",
                hint="add the gate's CA to the system's store, or set REQUESTS_CA_BUNDLE",
            ) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UnreachableError(f"{shown} is not an address that can be asked") from error
        except (requests.exceptions.RequestException, OSError) as error:
            raise UnreachableError(f"{shown} does not answer", hint=_network_hint(error)) from error


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


def _userinfo(address: str) -> requests.auth.AuthBase:
    from requests.auth import AuthBase, HTTPBasicAuth
    from requests.utils import get_auth_from_url

    class NoAuth(AuthBase):
        def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
            return request

    user, password = get_auth_from_url(address)
    return HTTPBasicAuth(user, password) if user or password else NoAuth()


def _body(answer: requests.Response, shown: str) -> bytes:
    status = answer.status_code
    if not 200 <= status < 300:
        raise _refusal(status, shown)
    body = b""
    for part in answer.iter_content(16 * 1024):
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise UntrustedGateError(f"{shown} sent more than {MAX_ANSWER_BYTES} bytes")
    return body


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


def _network_hint(error: Exception) -> str:
    text = type(error).__name__
    return f"check the address, the network and that the server runs ({text})"
