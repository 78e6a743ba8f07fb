"""A served site with one sealed software key and keys in a SoftHSM token, the PIN sealed beside the first."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
from pathlib import Path

from support.pki import Authority, new_key, pem
from support.product import UNLATCH, Proxy, environment
from support.softhsm import MODULE, PIN, SoftHsm

CONFIG = """\
unlock: {bundle: pay.jwe@gates@}
hardware:
  pins: {"@token@": "sealed:hsm-pin"}
  tcti: @tcti@
  pkcs11: [{module: @module@, read: [@files@], write: [@files@]}]
listeners:
  - bind: ["127.0.0.1:@port@"]
    certificates: [@certificates@]
routes: [{upstream: app}]
upstreams: {app: {servers: ["127.0.0.1:@app@"]}}
workers: 1
admin: {socket: admin.sock, http: "127.0.0.1:@health@"}
"""
SOFT, TOKENS = "localhost", ("p256.localhost", "rsa.localhost")
IN_TPM = "tpm.localhost"


class HardwareSite:
    """A folder with keys, certificates and the sealed file.

    Args:
        folder: where.
        hsm: its token "prod" gets the keys p256 and rsa.
        seal_to: options of `unlatch seal` that name who opens.
        pin: what is sealed as the token's PIN.
        token_pin: what the token takes, where that is not the usual one.
        module: the library through which the proxy reaches the token.
        gate: thumbprint of the gate that must have signed receipts, None for plain Tang.
    """

    def __init__(
        self,
        folder: Path,
        hsm: SoftHsm,
        *seal_to: str,
        pin: str = PIN,
        token_pin: str = PIN,
        module: str | Path = MODULE,
        gate: str | None = None,
    ) -> None:
        self.folder, self.hsm, self.module, self.gate = folder, hsm, module, gate
        self.authority = Authority(folder)
        self.extra = {"SOFTHSM2_CONF": str(hsm.config)}
        self.files = [hsm.folder]
        self.imported: dict[str, bytes] = {}
        self.certificates = ['{chain: soft.pem, key: "sealed:soft"}']
        soft = new_key("p256")
        (folder / "soft.key").write_bytes(pem(soft))
        self.authority.issue(folder / "soft.pem", [SOFT], soft.public_key())
        for number, name in enumerate(("p256", "rsa"), start=1):
            key = new_key(name)
            self.imported[name] = pem(key)
            (folder / f"{name}.key").write_bytes(self.imported[name])
            hsm.import_key("prod", folder / f"{name}.key", name, f"{number:02x}", pin=token_pin)
            (folder / f"{name}.key").unlink()
            self.authority.issue(folder / f"{name}.pem", [f"{name}.localhost"], key.public_key())
            self.certificates.append(f'{{chain: {name}.pem, key: "{self.key_uri(name)}"}}')
        (folder / "pin").write_text(pin)
        self.run(
            *("seal", *seal_to, "--workload", "pay", "--key", "soft=soft.key", "--names", SOFT),
            *("--pin", "hsm-pin=@pin", "--hardware", self.token, "--out", "pay.jwe"),
        )

    @property
    def token(self) -> str:
        """The token's URI."""
        return f"pkcs11:token=prod?module-path={self.module}"

    def key_uri(self, name: str) -> str:
        """A key's URI."""
        return f"pkcs11:token=prod;object={name};type=private?module-path={self.module}"

    def add_tpm_key(self, tcti: str) -> None:
        """Make a key in a TPM, and its certificate."""
        self.extra["UNLATCH_TCTI"] = tcti
        self.run("tpm", "make-key", "--out", "tpm.key")
        self.run("tpm", "csr", "tpm.key", "--names", IN_TPM, "--out", "tpm.csr")
        self.authority.issue_for_request(self.folder / "tpm.pem", (self.folder / "tpm.csr").read_bytes())
        self.certificates.append('{chain: tpm.pem, key: "file:tpm.key"}')

    def run(self, *arguments: str, extra: dict[str, str] | None = None) -> bytes:
        """Any command; it must succeed."""
        done = subprocess.run(
            [*UNLATCH, *arguments], cwd=self.folder, capture_output=True, timeout=60,
            env=environment(self.folder) | self.extra | (extra or {}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def config(self, app: int) -> str:
        """The configuration, with marks for the proxy's ports."""
        tcti = self.extra.get("UNLATCH_TCTI", "null")
        text = CONFIG
        for mark, value in {
            "@token@": self.token, "@tcti@": f'"{tcti}"' if ":" in tcti else tcti, "@module@": self.module,
            "@files@": ", ".join(map(str, self.files)), "@app@": app, "@certificates@": ", ".join(self.certificates),
            "@gates@": f", gates: [{self.gate}], wait: 60s" if self.gate else "",
        }.items():  # fmt: skip
            text = text.replace(mark, str(value))
        return text

    def serve(self, app: int, *, name: str = "proxy") -> Proxy:
        """Start the proxy."""
        return Proxy(self.folder, self.config(app), name=name, extra=self.extra)

    def answers(self, proxy: Proxy, host: str, version: ssl.TLSVersion | None = None) -> bool | None:
        """True once a request to this name is answered, None while its handshake fails."""
        with contextlib.suppress(ssl.SSLError, ConnectionError, TimeoutError):
            return proxy.get(ca=self.authority.path, host=host, version=version) == (200, b"ok\n") or None
        return None
