"""A way to a server that a test can close and hold."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Valve:
    """Relays connections from `port` to another port of loopback while it is open.

    `hold()` accepts and waits, `open()` lets what waits and what comes through, `shut()` ends connections at once.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._state = threading.Condition()
        self._is_held = self._is_shut = False
        self._waiting = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def hold(self) -> None:
        self._set(held=True, shut=False)

    def open(self) -> None:
        self._set(held=False, shut=False)

    def shut(self) -> None:
        self._set(held=False, shut=True)

    def wait_for_one(self, *, seconds: float = 30) -> None:
        """Until somebody waits."""
        with self._state:
            assert self._state.wait_for(lambda: self._waiting > 0, seconds), "nobody came"

    def _set(self, *, held: bool, shut: bool) -> None:
        with self._state:
            self._is_held, self._is_shut = held, shut
            self._state.notify_all()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(connection,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client:
            with self._state:
                self._waiting += 1
                self._state.notify_all()
                self._state.wait_for(lambda: not self._is_held)
                self._waiting -= 1
                if self._is_shut:
                    return
            self._pass_on(client)

    def _pass_on(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
