"""A sealed site whose upstreams want signatures and client certificates."""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from support.pki import Authority, new_key, pem
from support.product import Proxy, unlatch
from support.recorder import Recorder

HMAC_SECRET = "hmac-secret-of-the-egress-test-0001"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
LOGINS = ("p256", "rsa")
LIMIT = 64 * 1024

RULES = """\
hook:
  upstream: https://localhost:@psp@
  ca: ca.pem
  methods: [GET, POST]
  paths: [/v1/*]
  place: {header: X-Signature, scheme: raw}
  callers: ["127.0.0.0/8"]
  sign: {kind: hmac, hash: sha256, encoding: hex, prefix: v1=, over: [time, method, path, query, body], time_header: X-Time}
s3:
  upstream: https://localhost:@psp@
  ca: ca.pem
  place: {header: Authorization, scheme: raw}
  callers: ["127.0.0.0/8"]
  sign: {kind: sigv4, access_key: AKIDEXAMPLE, region: eu-central-1, service: s3}
api:
  upstream: https://localhost:@psp@
  ca: ca.pem
  place: {header: Authorization, scheme: raw}
  callers: ["127.0.0.0/8"]
  sign: {kind: sigv4, access_key: AKIDEXAMPLE, region: eu-central-1, service: execute-api}
robot:
  roles: [jwt]
  jwt:
    issuer: shop
    subject: robot
    audience: https://localhost
    key_id: k1
    claims: {scope: read}
    for:
      upstream: https://localhost:@psp@
      ca: ca.pem
      paths: [/v1/*]
      callers: ["127.0.0.0/8"]
far:
  upstream: https://localhost:@psp@
  callers: ["10.9.0.0/16"]
  place: {header: X-Signature, scheme: raw}
  sign: {kind: hmac, hash: sha256, encoding: hex, over: [path]}
tls: {names: [localhost], roles: [server]}
p256: {roles: [client]}
rsa: {roles: [client], names: [login.example]}
"""

CONFIG = """\
unlock: {bundle: pay.jwe, gates: [@gate@], wait: 60s}
listeners:
  - bind: ["127.0.0.1:@port@"]
    certificates: [{chain: tls.pem, key: "sealed:tls"}]
routes:
  - match: {path: /hook/*}
    upstream: psp
    strip_prefix: /hook
    inject: {header: X-Signature, scheme: raw, secret: hook, callers: ["127.0.0.0/8"]}
  - match: {path: /s3/*}
    upstream: psp
    strip_prefix: /s3
    inject: {header: Authorization, scheme: raw, secret: s3, callers: ["127.0.0.0/8"]}
  - match: {path: /api/*}
    upstream: psp
    strip_prefix: /api
    inject: {header: Authorization, scheme: raw, secret: api, callers: ["127.0.0.0/8"]}
  - match: {path: /robot/*}
    upstream: psp
    strip_prefix: /robot
    inject: {header: Authorization, scheme: bearer, secret: robot, callers: ["127.0.0.0/8"]}
  - match: {path: /far/*}
    upstream: psp
    inject: {header: X-Signature, scheme: raw, secret: far, callers: ["10.9.0.0/16"]}
  - match: {path: /login-p256/*}
    upstream: login-p256
    strip_prefix: /login-p256
  - match: {path: /login-rsa/*}
    upstream: login-rsa
    strip_prefix: /login-rsa
upstreams:
  psp: {servers: ["127.0.0.1:@psp@"], tls: {name: localhost, ca: ca.pem}}
  login-p256:
    servers: ["127.0.0.1:@login@"]
    tls: {name: localhost, ca: ca.pem, client: {chain: p256.pem, key: "sealed:p256"}}
  login-rsa:
    servers: ["127.0.0.1:@login@"]
    tls: {name: localhost, ca: ca.pem, client: {chain: rsa.pem, key: "sealed:rsa"}}
limits: {signed_body_bytes: 64KiB}
workers: 1
timeouts: {drain: 2s}
admin: {socket: admin.sock, http: "127.0.0.1:@health@"}
"""


@dataclass(slots=True)
class EgressSite:
    """The sealed folder and its upstreams."""

    folder: Path
    authority: Authority
    psp: Recorder
    login: Recorder
    gate: str

    @property
    def config(self) -> str:
        facts = {"@psp@": self.psp.port, "@login@": self.login.port, "@gate@": self.gate}
        text = CONFIG
        for mark, value in facts.items():
            text = text.replace(mark, str(value))
        return text

    def close(self) -> None:
        self.psp.close()
        self.login.close()

    def certificate(self, name: str) -> bytes:
        """A certificate in PEM."""
        return (self.folder / f"{name}.pem").read_bytes()


def seal_egress_site(folder: Path, url: str, thumbprint: str) -> EgressSite:
    """Make keys, certificates, upstreams and the sealed file."""
    authority = Authority(folder)
    clients = Authority(folder, "clients")
    for name, kind in (("psp", "p256"), ("tls", "p256"), ("p256", "p256"), ("rsa", "rsa"), ("robot", "p256")):
        key = new_key(kind)
        (folder / f"{name}.key").write_bytes(pem(key))
        issuer = clients if name in LOGINS else authority
        issuer.issue(
            folder / f"{name}.pem", [f"{name}.login" if name in LOGINS else "localhost"], key.public_key()
        )
    psp = Recorder(folder / "psp.pem", folder / "psp.key")
    login = Recorder(folder / "psp.pem", folder / "psp.key", client_ca=clients.path)
    site = EgressSite(folder, authority, psp, login, thumbprint)
    (folder / "rules.yaml").write_text(RULES.replace("@psp@", str(psp.port)))
    for name, value in (("hook", HMAC_SECRET), ("far", HMAC_SECRET), ("s3", AWS_SECRET), ("api", AWS_SECRET)):
        (folder / f"{name}.secret").write_text(value)
    keys = [part for name in ("tls", *LOGINS, "robot") for part in ("--key", f"{name}={name}.key")]
    tokens = [part for name in ("hook", "far", "s3", "api") for part in ("--token", f"{name}=@{name}.secret")]
    to = ("seal", "--to", url, "--thp", thumbprint, "--workload", "pay")
    result = unlatch(*to, *keys, *tokens, "--use", "rules.yaml", "--out", "pay.jwe", cwd=folder)
    assert result.returncode == 0, result.stderr.decode()
    return site


def ask(
    site: EgressSite,
    proxy: Proxy,
    target: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    context = ssl.create_default_context(cafile=str(site.authority.path))
    with (
        socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = tls
        connection.request(method, target, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def guard_counts(proxy: Proxy) -> dict[str, int]:
    """How often each secret was used."""
    guard = proxy.status()["processes"]["guard"]
    used = {one["name"]: one["given"] for one in guard["tokens"]}
    return used | {one["name"]: one["signatures"] for one in guard["keys"]}
