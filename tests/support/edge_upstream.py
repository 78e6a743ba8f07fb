"""A raw HTTP/1.1 upstream whose every byte a test decides."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Received:
    """One request as it came in; `wire` are its bytes."""

    head: bytes
    body: bytes
    wire: bytes

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()

    def values(self, name: str) -> list[str]:
        """All values of a field, in order."""
        lines = [line.partition(":") for line in self.head.decode().split("\r\n")[1:]]
        return [value.strip() for field_name, _, value in lines if field_name.lower() == name.lower()]


@dataclass
class Connection:
    """One accepted connection: reads requests, sends what it is told."""

    socket: socket.socket
    buffer: bytes = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self) -> Received | None:
        """The next whole request; nothing at the end."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        request = Received(head, b"", head)
        if request.values("content-length"):
            request.body = self._exactly(int(request.values("content-length")[0]))
            request.wire += request.body
        elif request.values("transfer-encoding"):
            self._chunks(request)
        return request

    def _chunks(self, request: Received) -> None:
        while True:
            line = self._until(b"\r\n") or b"0"
            data = self._exactly(int(line, 16) + 2)
            request.wire += line + data
            request.body += data[:-2]
            if int(line, 16) == 0:
                return

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self.buffer:
            if not self._more():
                return None
        found, _, self.buffer = self.buffer.partition(mark)
        return found + mark

    def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self._more():
                raise EOFError("request ended early")
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def _more(self) -> bool:
        try:
            data = self.socket.recv(262144)
        except (ConnectionResetError, ssl.SSLError):
            return False
        self.buffer += data
        return bool(data)


@dataclass
class Upstream:
    """``with Upstream(serve) as upstream``: `serve(connection, request)` answers each request.

    `requests` and `connections` record what came. A `serve` that returns False closes the connection.
    """

    serve: Callable[[Connection, Received], bool | None] = field(default=lambda one, _: one.send(OK))
    tls: ssl.SSLContext | None = None
    requests: list[Received] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.close_connections()
        for thread in self._threads:
            thread.join(10)

    def close_connections(self) -> None:
        """End every connection, as a restarted server does."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(conn)
            thread = threading.Thread(target=self._run, args=(conn,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, conn: socket.socket) -> None:
        with conn:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                try:
                    conn = self.tls.wrap_socket(conn, server_side=True)
                except (ssl.SSLError, OSError):
                    return
                self._open.append(conn)
            with conn:
                self._talk(Connection(conn))

    def _talk(self, connection: Connection) -> None:
        try:
            while (request := connection.request()) is not None:
                self.requests.append(request)
                if self.serve(connection, request) is False:
                    return
        except (BrokenPipeError, ConnectionResetError, EOFError):
            return


@contextlib.contextmanager
def refusing_address() -> Iterator[str]:
    """An address on which nobody listens while the block runs."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{one.getsockname()[1]}"
