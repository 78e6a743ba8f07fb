"""Debian's tangd on loopback: one process per connection, as its systemd socket starts it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

TANGD = Path("/usr/libexec/tangd")
KEYGEN = Path("/usr/libexec/tangd-keygen")


class Tangd:
    """A running Tang server with keys of its own.

    ``with Tangd() as server: server.url, server.thumbprint``. Keys may be changed in `directory` while it runs: tangd
    reads them on every request. `connections` counts accepted connections.
    """

    def __init__(self, keys: Path | None = None) -> None:
        self._folder = None if keys else tempfile.mkdtemp(prefix="tangd-")
        self.directory = keys or Path(str(self._folder))
        self.connections = 0
        self._children: list[subprocess.Popen[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        """Address without a slash at the end."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def thumbprint(self) -> str:
        """SHA-256 thumbprint of the first advertised signing key."""
        for file in sorted(self.directory.glob("[!.]*.jwk")):
            if "verify" in json.loads(file.read_text())["key_ops"]:
                found = subprocess.run(
                    ["jose", "jwk", "thp", "-a", "S256", "-i", file],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                return found.stdout.strip()
        raise LookupError("no signing key")

    def rotate(self) -> None:
        """Hide every key and make new ones, as tangd-rotate-keys does."""
        for file in self.directory.glob("[!.]*.jwk"):
            file.rename(file.with_name(f".{file.name}"))
        self._keygen()

    def __enter__(self) -> Self:
        if not any(self.directory.glob("*.jwk")):
            self._keygen()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for child in self._children:
            child.kill()
            child.wait()
        if self._folder:
            shutil.rmtree(self._folder)

    def _keygen(self) -> None:
        subprocess.run([KEYGEN, self.directory], check=True, capture_output=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                child = subprocess.Popen(
                    [TANGD, self.directory], stdin=connection, stdout=connection, stderr=subprocess.DEVNULL
                )
            self._children.append(child)
