"""Keys that stay in a token or TPM: served through guard and a custodian, the PIN out of the sealed file."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pki import Authority, new_key, pem
from support.product import UNLATCH, Proxy, environment, eventually
from support.softhsm import MODULE, PIN, SoftHsm
from support.swtpm import Swtpm
from support.tangd import Tangd

pytestmark = [pytest.mark.e2e, pytest.mark.interop]

TOKEN = f"pkcs11:token=prod?module-path={MODULE}"
CONFIG = """\
unlock: {bundle: pay.jwe}
hardware:
  pins: {"@token@": "sealed:hsm-pin"}
  tcti: @tcti@
  pkcs11: [{module: @module@, read: [@hsm@], write: [@hsm@]}]
listeners:
  - bind: ["127.0.0.1:@port@"]
    certificates: [@certificates@]
routes: [{upstream: app}]
upstreams: {app: {servers: ["127.0.0.1:@app@"]}}
workers: 1
admin: {socket: admin.sock, http: "127.0.0.1:@health@"}
"""
SOFT, TOKENS = "localhost", ("p256.localhost", "rsa.localhost")


def key_uri(name: str) -> str:
    return f"pkcs11:token=prod;object={name};type=private?module-path={MODULE}"


class HardwareSite:
    """One sealed software key, two keys in SoftHSM, the PIN sealed beside the first."""

    def __init__(self, folder: Path, hsm: SoftHsm, tangd: Tangd, *, pin: str) -> None:
        self.folder, self.hsm = folder, hsm
        self.authority = Authority(folder)
        self.extra = {"SOFTHSM2_CONF": str(hsm.config)}
        self.certificates = ['{chain: soft.pem, key: "sealed:soft"}']
        soft = new_key("ed25519")
        (folder / "soft.key").write_bytes(pem(soft))
        self.authority.issue(folder / "soft.pem", [SOFT], soft.public_key())
        for number, name in enumerate(("p256", "rsa"), start=1):
            key = new_key(name)
            (folder / f"{name}.key").write_bytes(pem(key))
            hsm.import_key("prod", folder / f"{name}.key", name, f"{number:02x}")
            (folder / f"{name}.key").unlink()
            self.authority.issue(folder / f"{name}.pem", [f"{name}.localhost"], key.public_key())
            self.certificates.append(f'{{chain: {name}.pem, key: "{key_uri(name)}"}}')
        (folder / "pin").write_text(pin)
        self.run(
            *("seal", "--to", tangd.url, "--thp", tangd.thumbprint, "--workload", "pay"),
            *("--key", "soft=soft.key", "--names", SOFT, "--pin", "hsm-pin=@pin", "--hardware", TOKEN),
            *("--out", "pay.jwe"),
        )

    def run(self, *arguments: str, extra: dict[str, str] | None = None) -> bytes:
        """Any command; it must succeed."""
        done = subprocess.run(
            [*UNLATCH, *arguments], cwd=self.folder, capture_output=True, timeout=60,
            env=environment(self.folder) | self.extra | (extra or {}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def serve(self, app: int, *, tcti: str = "null") -> Proxy:
        """Start the proxy."""
        text = CONFIG
        for mark, value in {
            "@token@": TOKEN, "@tcti@": tcti, "@module@": MODULE, "@hsm@": self.hsm.folder, "@app@": app,
            "@certificates@": ", ".join(self.certificates),
        }.items():  # fmt: skip
            text = text.replace(mark, str(value))
        return Proxy(self.folder, text, extra=self.extra)


@pytest.fixture
def hsm() -> Iterator[SoftHsm]:
    with SoftHsm() as tokens:
        tokens.add_token("prod")
        yield tokens


@pytest.fixture
def hardware_site(tmp_path: Path, hsm: SoftHsm, tangd: Tangd) -> HardwareSite:
    return HardwareSite(tmp_path, hsm, tangd, pin=PIN)


def answers(
    proxy: Proxy, site: HardwareSite, host: str, version: ssl.TLSVersion | None = None
) -> bool | None:
    """True once a request to this name is answered."""
    try:
        return proxy.get(ca=site.authority.path, host=host, version=version) == (200, b"ok\n") or None
    except (ssl.SSLError, ConnectionError):
        return None


def test_keys_in_a_token_serve_each_version(hardware_site: HardwareSite, upstream: int) -> None:
    with hardware_site.serve(upstream) as proxy:
        proxy.wait_for_event("serving")
        for host in TOKENS:
            eventually(f"the first answer of {host}", lambda host=host: answers(proxy, hardware_site, host))
        served = {
            (host, version): answers(proxy, hardware_site, host, version)
            for host in (SOFT, *TOKENS)
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
        }

    assert set(served.values()) == {True}


def test_killed_custodian_heals_and_holds_up_nobody(hardware_site: HardwareSite, upstream: int) -> None:
    with hardware_site.serve(upstream) as proxy:
        proxy.wait_for_event("serving")
        eventually("the first answer", lambda: answers(proxy, hardware_site, TOKENS[0]))
        os.kill(proxy.pid("custodian 0"), signal.SIGKILL)
        while_down = answers(proxy, hardware_site, SOFT)
        proxy.wait_for_event("custodian started", count=2)
        eventually("the key's return", lambda: answers(proxy, hardware_site, TOKENS[0]))
        unlocked = sum(event["event"] == "unlocked" for event in proxy.events())

    assert while_down
    assert unlocked == 1


def test_wrong_pin_is_tried_once_and_software_keys_serve(
    tmp_path: Path, hsm: SoftHsm, tangd: Tangd, upstream: int
) -> None:
    site = HardwareSite(tmp_path, hsm, tangd, pin="000000")
    with site.serve(upstream) as proxy:
        proxy.wait_for_event("serving")

        def state() -> str | None:
            (one,) = proxy.status()["processes"]["guard"]["custodians"]
            return str(one["state"]) if one["state"].startswith("pin-") else None

        refused = eventually("the refusal of the PIN", state)
        os.kill(proxy.pid("custodian 0"), signal.SIGKILL)
        proxy.wait_for_event("custodian started", count=2)
        served = answers(proxy, site, SOFT)
        broken = answers(proxy, site, TOKENS[0])

    assert refused == "pin-wrong"
    assert served
    assert broken is None
    assert hsm.tool("prod", "--list-objects")  # the right PIN still logs in: it was not locked


def test_key_in_a_tpm_serves(hardware_site: HardwareSite, upstream: int) -> None:
    with Swtpm() as tpm:
        hardware_site.extra["UNLATCH_TCTI"] = tpm.tcti
        hardware_site.run("tpm", "make-key", "--out", "tpm.key")
        hardware_site.run("tpm", "csr", "tpm.key", "--names", "tpm.localhost", "--out", "tpm.csr")
        request = (hardware_site.folder / "tpm.csr").read_bytes()
        hardware_site.authority.issue_for_request(hardware_site.folder / "tpm.pem", request)
        hardware_site.certificates.append('{chain: tpm.pem, key: "file:tpm.key"}')
        with hardware_site.serve(upstream, tcti=f'"{tpm.tcti}"') as proxy:
            proxy.wait_for_event("serving")
            served = eventually("the first answer", lambda: answers(proxy, hardware_site, "tpm.localhost"))

    assert served
