"""Files that open with this machine's TPM or token, from seal to serve: no gate, no network, a local hook."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pki import Authority, new_key, pem
from support.product import UNLATCH, Proxy, environment, free_port
from support.softhsm import MODULE, PIN, SoftHsm
from support.swtpm import Swtpm
from support.tangd import Tangd

pytestmark = [pytest.mark.e2e, pytest.mark.interop]

CONFIG = """\
unlock: {bundle: pay.jwe, hook: [./hook]}
listeners:
  - bind: ["127.0.0.1:@port@"]
    certificates: [{chain: site.pem, key: "sealed:tls"}]
routes: [{upstream: app}]
upstreams: {app: {servers: ["127.0.0.1:@upstream@"]}}
workers: 1
admin: {socket: admin.sock, http: "127.0.0.1:@health@"}
"""


class Site:
    """A folder with a key, a certificate and a hook."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        key = new_key("p256")
        (folder / "tls.key").write_bytes(pem(key))
        self.authority.issue(folder / "site.pem", ["localhost"], key.public_key())
        self.answer(0)

    def answer(self, code: int) -> None:
        """Say what the hook will answer."""
        hook = self.folder / "hook"
        hook.write_text(f"#!{sys.executable} -I\nimport sys\nsys.stdin.read()\nsys.exit({code})\n")
        hook.chmod(0o755)

    def seal(self, *arguments: str, extra: dict[str, str]) -> None:
        """Seal the key."""
        import subprocess

        command = [
            *UNLATCH,
            "seal",
            *arguments,
            "--key",
            "tls=tls.key",
            "--names",
            "localhost",
            "--out",
            "pay.jwe",
        ]
        done = subprocess.run(
            command, cwd=self.folder, env=environment(self.folder) | extra, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()

    def serve(self, upstream: int, *, extra: dict[str, str]) -> Proxy:
        """Start the proxy."""
        return Proxy(self.folder, CONFIG.replace("@upstream@", str(upstream)), extra=extra)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    with Swtpm() as running:
        yield running


def reach(tpm: Swtpm) -> dict[str, str]:
    return {"UNLATCH_TCTI": tpm.tcti}


def test_tpm_alone_opens_after_the_hook(site: Site, tpm: Swtpm, upstream: int) -> None:
    site.seal("--pcrs", "sha256:7,11", extra=reach(tpm))
    with site.serve(upstream, extra=reach(tpm)) as proxy:
        proxy.wait_for_event("serving")

        assert proxy.get(ca=site.authority.path) == (200, b"ok\n")
    assert tpm.leaks() == []


def test_hook_that_says_no_keeps_the_tpm_shut(site: Site, tpm: Swtpm) -> None:
    site.seal("--tpm", extra=reach(tpm))
    site.answer(10)
    with site.serve(free_port(), extra=reach(tpm)) as proxy:
        assert proxy.wait_for_end() == 14
        assert proxy.is_refused()


def test_another_kernel_is_refused_until_its_values_are_signed(site: Site, tpm: Swtpm, upstream: int) -> None:
    import subprocess

    def policy(*arguments: str) -> None:
        subprocess.run(
            [*UNLATCH, "tpm", "policy", *arguments],
            cwd=site.folder,
            env=environment(site.folder) | reach(tpm),
            check=True,
            capture_output=True,
            timeout=60,
        )

    policy("make-key", "--out", "policy.pem")
    site.seal("--pcr-policy", "policy.pem.pub", extra=reach(tpm))
    tpm.extend(11, "another kernel")
    with site.serve(upstream, extra=reach(tpm)) as proxy:
        assert proxy.wait_for_end() == 13
        assert "values that the policy key signed" in proxy.text()

    policy("sign", "--key", "policy.pem", "--pcrs", "11", "--out", "pay.jwe.pcrs")
    with site.serve(upstream, extra=reach(tpm)) as proxy:
        proxy.wait_for_event("serving")
        assert proxy.get(ca=site.authority.path)[0] == 200


def test_thief_with_the_file_and_a_willing_server_lacks_the_machine(
    site: Site, tpm: Swtpm, tangd: Tangd, upstream: int
) -> None:
    site.seal("--to", tangd.url, "--thp", tangd.thumbprint, "--tpm", extra=reach(tpm))
    with Swtpm() as elsewhere, site.serve(free_port(), extra=reach(elsewhere)) as thief:
        assert thief.wait_for_end() == 18
    with site.serve(upstream, extra=reach(tpm)) as proxy:
        proxy.wait_for_event("serving")
        assert proxy.get(ca=site.authority.path)[0] == 200


def test_token_opens_with_its_pin_from_a_credential(site: Site, upstream: int) -> None:
    with SoftHsm() as hsm:
        hsm.add_token("prod")
        hsm.make_key("prod", "rsa:2048", "wrap")
        extra = {"SOFTHSM2_CONF": str(hsm.config)}
        site.seal("--pkcs11", f"pkcs11:token=prod;object=wrap?module-path={MODULE}", extra=extra)
        with site.serve(free_port(), extra=extra) as proxy:
            assert proxy.wait_for_end() == 21
            assert "no PIN for" in proxy.text()

        credentials = site.folder / "credentials"
        credentials.mkdir(mode=0o700)
        descriptor = os.open(credentials / "pkcs11-pin", os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(PIN)
        with site.serve(upstream, extra=extra | {"CREDENTIALS_DIRECTORY": str(credentials)}) as proxy:
            proxy.wait_for_event("serving")
            assert proxy.get(ca=site.authority.path)[0] == 200
            assert PIN not in proxy.text()
