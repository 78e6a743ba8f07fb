"""uvicorn's HTTP/1.1 protocol, but each response leaves in one write.

uvicorn writes head and body apart. Two small segments on a kept-alive connection can cost a delayed acknowledgement
(tangd pays about 48 ms for each request that way), so what one turn of the loop writes is joined.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol


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
    """Joins the writes of one turn."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the joining transport in between."""
        super().connection_made(cast("asyncio.Transport", _JoiningTransport(transport, self.loop)))
