"""uvicorn's HTTP/1.1 protocol, but each response leaves in one write, and a request must come in time.

uvicorn writes head and body apart. Two small segments on a kept-alive connection can cost a delayed acknowledgement
(tangd pays about 48 ms for each request that way), so what one turn of the loop writes is joined.

uvicorn waits for ever for the end of a request. Here a connection that has begun one, or has just been made, is closed
when head and body are not whole within ten seconds.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 10.0


class _JoiningTransport:
    """Stands before a transport: writes are kept until the loop's next turn, or until anything else is asked."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._kept: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._kept:
            self._loop.call_soon(self._flush)
        self._kept.append(bytes(data))

    def _flush(self) -> None:
        if self._kept:
            data, self._kept = b"".join(self._kept), []
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        self._flush()
        return getattr(self._transport, name)


class OneWriteProtocol(H11Protocol):
    """Joins the writes of one turn, and closes a connection whose request does not come to its end."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the joining transport in between."""
        super().connection_made(cast("asyncio.Transport", _JoiningTransport(transport, self.loop)))
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._forget_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Keep one deadline from a request's first byte to its last."""
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._set_deadline()
        else:
            self._forget_deadline()

    def send_400_response(self, msg: str) -> None:
        """Bytes that are no HTTP get none back: the connection is closed, as tangd does."""
        self.transport.close()

    def _set_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self.transport.close()
