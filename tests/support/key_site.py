"""A proxy with sealed keys and keys in SoftHSM, the token's PIN sealed beside the first."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

from support.pki import Authority, new_key, pem
from support.product import UNLATCH, Proxy, environment
from support.softhsm import MODULE, PIN, SoftHsm
from support.tangd import Tangd

TOKEN = f"pkcs11:token=prod?module-path={MODULE}"
CONFIG = """\
unlock: {bundle: pay.jwe}
hardware:
  pins: {"@token@": "sealed:hsm-pin"}
  tcti: @tcti@
  pkcs11: [{module: @module@, sessions: @sessions@, read: [@hsm@], write: [@hsm@]}]
listeners:
  - bind: ["127.0.0.1:@port@"]
    certificates: [@certificates@]
routes: [{upstream: app}]
upstreams: {app: {servers: ["127.0.0.1:@app@"]}}
workers: @workers@
admin: {socket: admin.sock, http: "127.0.0.1:@health@"}
"""


def key_uri(name: str) -> str:
    """The URI of a key of the token."""
    return f"pkcs11:token=prod;object={name};type=private?module-path={MODULE}"


class KeySite:
    """Keys made at run time; `certificates` are entries of the configuration, which a test may change."""

    def __init__(self, folder: Path, hsm: SoftHsm, tangd: Tangd) -> None:
        self.folder, self.hsm, self.tangd = folder, hsm, tangd
        self.authority = Authority(folder)
        self.extra = {"SOFTHSM2_CONF": str(hsm.config)}
        self.certificates: list[str] = []
        self._sealed: list[str] = []

    def add_sealed(self, name: str, kind: str, host: str) -> str:
        """A key for the sealed file, with a chain `NAME.pem` for `host`; gives the configuration's entry."""
        key = new_key(kind)
        (self.folder / f"{name}.key").write_bytes(pem(key))
        self.authority.issue(self.folder / f"{name}.pem", [host], key.public_key())
        self._sealed.append(name)
        return f'chain: {name}.pem, key: "sealed:{name}"'

    def add_hardware(self, name: str, kind: str, host: str) -> str:
        """A key in the token, with a chain `NAME.pem` for `host`; gives the configuration's entry."""
        key = new_key(kind)
        path = self.folder / f"{name}.key"
        path.write_bytes(pem(key))
        self.hsm.import_key("prod", path, name, f"{len(self.certificates) + 1:02x}")
        path.unlink()
        self.authority.issue(self.folder / f"{name}.pem", [host], key.public_key())
        return f'chain: {name}.pem, key: "{key_uri(name)}"'

    def seal(self, *arguments: str, hosts: str = "localhost,p256.localhost,rsa.localhost") -> None:
        """Seal what was added, and the PIN."""
        (self.folder / "pin").write_text(PIN)
        keys = [word for name in self._sealed for word in ("--key", f"{name}={name}.key")]
        self.run(
            *("seal", "--to", self.tangd.url, "--thp", self.tangd.thumbprint, "--workload", "pay"),
            *keys, "--names", hosts, "--pin", "hsm-pin=@pin", "--hardware", TOKEN, *arguments,
            *("--out", "pay.jwe", "--force"),
        )  # fmt: skip

    def run(self, *arguments: str) -> bytes:
        """Any command; it must succeed."""
        done = subprocess.run(
            [*UNLATCH, *arguments], cwd=self.folder, capture_output=True, timeout=60,
            env=environment(self.folder) | self.extra,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def serve(
        self, app: int, *, more: str = "", tcti: str = "null", workers: int = 1, sessions: int = 4
    ) -> Proxy:
        """Start the proxy; `more` are further lines of the configuration."""
        text = CONFIG + more
        for mark, value in {
            "@token@": TOKEN, "@tcti@": tcti, "@workers@": workers, "@sessions@": sessions, "@module@": MODULE, "@hsm@": self.hsm.folder, "@app@": app,
            "@certificates@": ", ".join(f"{{{one}}}" for one in self.certificates),
        }.items():  # fmt: skip
            text = text.replace(mark, str(value))
        return Proxy(self.folder, text, extra=self.extra)

    def answers(self, proxy: Proxy, host: str, version: ssl.TLSVersion | None = None) -> bool | None:
        """True once a request to this name is answered."""
        try:
            return proxy.get(ca=self.authority.path, host=host, version=version) == (200, b"ok\n") or None
        except (ssl.SSLError, ConnectionError):
            return None
