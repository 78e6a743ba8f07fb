"""Guard and edge as the supervisor wires them, for one certificate: the program that the benchmark measures.

usage: serve_unlatch.py PORT BACKEND_PORT CHAIN KEY WORKERS. The sealed file is made here with a content key of its
own, so that no gate takes part in the figures.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import signal
import socket
import struct
import sys
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from unlatch.proxy.config_file import load
from unlatch.proxy.supervisor import Supervisor
from unlatch.proxy.unlocking import Outcome

CONFIG = """\
unlock: {{bundle: none.jwe}}
listeners: [{{bind: ["127.0.0.1:{port}"], certificates: [{{chain: {chain}, key: "sealed:default"}}]}}]
routes: [{{upstream: app}}]
upstreams: {{app: {{servers: ["127.0.0.1:{backend}"]}}}}
workers: {workers}
access_log: false
timeouts: {{idle: 5m, header: 5m, handshake: 5m, response: 5m, body: 5m}}
limits: {{connections: 7000, signatures: 1000000}}
admin: {{socket: admin-{port}.sock}}
"""


def base64url(data: bytes) -> bytes:
    """RFC 7515's base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sealed(key: bytes, payload: bytes) -> bytes:
    """A compact JWE with alg dir."""
    header = base64url(json.dumps({"alg": "dir", "enc": "A256GCM"}, separators=(",", ":")).encode())
    iv = secrets.token_bytes(12)
    box = AESGCM(key).encrypt(iv, payload, header)
    return b".".join((header, b"", base64url(iv), base64url(box[:-16]), base64url(box[-16:])))


class Unlocked(Supervisor):
    """The supervisor with a key that needs no asking."""

    def __init__(self, path: Path, key_file: Path) -> None:
        super().__init__(path)
        self._key_file = key_file

    async def _unlock(self) -> Outcome:
        assert self._guard
        key = secrets.token_bytes(32)
        compact = sealed(key, self._key_file.read_bytes())
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(struct.pack(">II", 1, len(compact)) + key + compact)
            await self._guard.control.load(theirs.fileno())
        return Outcome(0)


async def serve(path: Path, key_file: Path) -> None:
    """Until SIGTERM."""
    supervisor = Unlocked(path, key_file)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    await supervisor.run()


def main() -> None:
    """Write the configuration and serve."""
    port, backend, chain, key, workers = sys.argv[1:6]
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"unlatch-bench-{port}.yaml"
    path.write_text(CONFIG.format(port=port, backend=backend, chain=chain, workers=workers))
    load(path)
    asyncio.run(serve(path, Path(key)))


if __name__ == "__main__":
    main()
