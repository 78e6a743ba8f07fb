"""HTTP of the operator's side: JSON in, JSON out, nothing followed, everything bounded. `requests` is imported on first use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from unlatch.bootstrap.approval import strict_json
from unlatch.bootstrap.approval.words import printable
from unlatch.errors import BusyError, RefusedError, UnreachableError, UntrustedGateError

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
MAX_REPLY_BYTES = 1024 * 1024
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class GateRefusedError(RefusedError):
    """The gate said no. `kind` is its word for why, `status` the HTTP status."""

    def __init__(self, kind: str, message: str, *, status: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


class GateHttp:
    """One gate's listener for people."""

    def __init__(self, origin: str) -> None:
        self._origin = origin.rstrip("/")
        self.token: str | None = None

    def get(self, path: str) -> dict[str, Any]:
        """GET a JSON object.

        Raises:
            GateRefusedError, UnreachableError, UntrustedGateError, BusyError
        """
        return self._read(self._send("GET", path, None))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST a JSON object and read one."""
        return self._read(self._send("POST", path, json.dumps(body).encode()))

    def raw(self, path: str) -> bytes:
        """GET a body as it is."""
        response = self._send("GET", path, None)
        body = b"".join(_bounded(response))
        if response.status_code != 200:
            raise UnreachableError(f"{self._origin}{path} answered with status {response.status_code}")
        return body

    def lines(self, path: str) -> Iterator[bytes]:
        """GET a body line by line, each at most 1 MiB."""
        response = self._send("GET", path, None)
        if response.status_code != 200:
            self._read(response)
        yield from _lines(response)

    def _send(self, method: str, path: str, body: bytes | None) -> Any:
        import requests

        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self.token is not None:
            self.check_secrecy()
            headers["Authorization"] = f"Bearer {self.token}"
        address = self._origin + path
        try:
            with requests.Session() as session:
                session.auth = _as_it_is
                response = session.request(
                    method, address, data=body, headers=headers, timeout=(CONNECT_SECONDS, READ_SECONDS),
                    allow_redirects=False, stream=True,
                )  # fmt: skip
        except requests.exceptions.SSLError as error:
            raise UnreachableError(
                f"{self._origin}: TLS is not trusted", hint="set REQUESTS_CA_BUNDLE to the CA of the gate"
            ) from error
        except requests.RequestException as error:
            raise UnreachableError(
                f"no answer from {self._origin}", hint="does the gate run, and is this its people's address?"
            ) from error
        return response

    def _read(self, response: Any) -> dict[str, Any]:
        body = b"".join(_bounded(response))
        if response.status_code == 429:
            wait = printable(response.headers.get("Retry-After", "a few"), limit=10)
            raise BusyError(f"{self._origin} asks to wait {wait} s")
        try:
            value = strict_json.read_object(body)
        except ValueError as error:
            raise UntrustedGateError(
                f"{self._origin} answered with something that is no JSON (status {response.status_code})",
                hint="does a log-in page or proxy stand before the gate?",
            ) from error
        if response.status_code != 200:
            raise GateRefusedError(
                printable(value.get("error")),
                printable(value.get("message", value.get("error"))),
                status=response.status_code,
            )
        return value

    def check_secrecy(self) -> None:
        """Refuse to carry a session where others can read it.

        Raises:
            UnreachableError: neither https nor loopback.
        """
        parts = urlsplit(self._origin)
        if parts.scheme != "https" and parts.hostname not in LOOPBACK:
            raise UnreachableError(
                f"{self._origin} is not encrypted: the session would be readable on the way",
                hint="serve the people's listener with --tls-cert and --tls-key, or behind a TLS proxy",
            )


def _bounded(response: Any) -> Iterator[bytes]:
    import requests

    size = 0
    try:
        for piece in response.iter_content(65536):
            size += len(piece)
            if size > MAX_REPLY_BYTES:
                raise UntrustedGateError(f"the gate's answer is over {MAX_REPLY_BYTES} bytes")
            yield piece
    except requests.RequestException as error:
        raise UnreachableError("the gate's answer broke off") from error


def _lines(response: Any) -> Iterator[bytes]:
    import requests

    rest = b""
    try:
        for piece in response.iter_content(65536):
            *whole, rest = (rest + piece).split(b"\n")
            if len(rest) > MAX_REPLY_BYTES:
                raise UntrustedGateError(f"a line of the gate's answer is over {MAX_REPLY_BYTES} bytes")
            yield from whole
    except requests.RequestException as error:
        raise UnreachableError("the gate's answer broke off") from error
    if rest:
        yield rest


def _as_it_is(request: Any) -> Any:
    """Stands as `auth` so that requests takes no password from ~/.netrc."""
    return request
