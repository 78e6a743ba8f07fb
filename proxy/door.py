"""The listening sockets: bound early, opened after unlock, closed when guard is gone.

A socket that is bound but not listening refuses connections, so that health checks see a locked host as down.
One SO_REUSEPORT socket per worker and address: the kernel spreads connections, and a restarted edge finds the
same sockets, with what waits in their queues.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from unlatch.errors import ConfigError
from unlatch.proxy.config_values import split_address

BACKLOG = 4096


class Door:
    """Bound sockets by address, in the order of the workers."""

    def __init__(self, addresses: Iterable[str], *, workers: int) -> None:
        self._sockets: dict[str, list[socket.socket]] = {}
        self._is_open = False
        try:
            for address in addresses:
                self._sockets[address] = _bind(address, workers)
        except BaseException:
            self.close()
            raise

    @property
    def sockets(self) -> Mapping[str, list[socket.socket]]:
        """The sockets of each address as the configuration writes it."""
        return MappingProxyType(self._sockets)

    @property
    def addresses(self) -> list[str]:
        """Where the door really is, with the port that the kernel gave for port 0."""
        return [format_address(sockets[0].getsockname()) for sockets in self._sockets.values()]

    def open(self) -> None:
        """Accept connections."""
        self._is_open = True
        for sockets in self._sockets.values():
            for one in sockets:
                one.listen(BACKLOG)

    def shut(self) -> None:
        """Refuse connections at once and keep the ports; `open` works again.

        The sockets are new ones afterwards: what a listener that was once shut for reading accepts later is shut for
        reading too (Linux copies the flag to each accepted socket).
        """
        if not self._is_open:
            return
        self._is_open = False
        for address, sockets in self._sockets.items():
            for one in sockets:
                one.shutdown(socket.SHUT_RD)
            self._sockets[address] = _bind(format_address(sockets[0].getsockname()), len(sockets))
            for one in sockets:
                one.close()

    def close(self) -> None:
        """Give the ports back."""
        for sockets in self._sockets.values():
            for one in sockets:
                one.close()
        self._sockets.clear()


def format_address(name: tuple[object, ...]) -> str:
    """`host:port` of a socket's name, IPv6 in brackets."""
    host, port = str(name[0]), name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def memory_file(name: str, content: bytes) -> int:
    """A descriptor of a sealed memory file at its beginning: configuration for a child."""
    import fcntl

    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(
        descriptor,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL,
    )
    return descriptor


def _bind(address: str, workers: int) -> list[socket.socket]:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockets: list[socket.socket] = []
    try:
        for _ in range(workers):
            one = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setblocking(False)
            one.bind((host, port))
            port = port or one.getsockname()[1]
    except OSError as error:
        for one in sockets:
            one.close()
        raise ConfigError(
            f"cannot bind {address}: {error.strerror}",
            hint="is another server on this port, or is it below 1024?",
        ) from error
    return sockets
