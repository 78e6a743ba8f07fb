"""Debian's tangd and clevis to our proxy: sealed by clevis, opened by unlock, served by edge, signed by guard."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pki import Authority, new_key, pem
from support.product import Proxy, free_port
from support.tangd import Tangd

pytestmark = pytest.mark.e2e

CONFIG = """\
unlock: {bundle: site.jwe}
listeners:
  - bind: ["127.0.0.1:@port@"]
    certificates: [{chain: site.pem, key: "sealed:default"}]
routes: [{upstream: app}]
upstreams: {app: {servers: ["127.0.0.1:@upstream@"]}}
workers: 1
admin: {socket: admin.sock, http: "127.0.0.1:@health@"}
"""


def seal_site(folder: Path, tangd: Tangd) -> Authority:
    """A site whose key the real clevis sealed: `site.pem`, `site.jwe`."""
    authority = Authority(folder)
    key = new_key("p256")
    authority.issue(folder / "site.pem", ["localhost"], key.public_key())
    policy = f'{{"url": "{tangd.url}", "thp": "{tangd.thumbprint}"}}'
    sealed = subprocess.run(
        ["clevis", "encrypt", "tang", policy], input=pem(key), capture_output=True, check=True
    )
    (folder / "site.jwe").write_bytes(sealed.stdout)
    return authority


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    """A sealed site whose Tang server runs."""
    with Tangd() as tangd:
        yield seal_site(tmp_path, tangd)


def test_key_sealed_by_clevis_is_served(tmp_path: Path, authority: Authority, upstream: int) -> None:
    with Proxy(tmp_path, CONFIG.replace("@upstream@", str(upstream))) as proxy:
        proxy.wait_for_event("serving")

        curl = subprocess.run(
            ["curl", "-sS", "--cacert", str(authority.path), f"https://localhost:{proxy.port}/hello"],
            capture_output=True,
            check=True,
        )

        assert curl.stdout == b"ok\n"
        assert proxy.readiness() == (200, "serving")
        proxy.process.terminate()
        assert proxy.wait_for_end() == 0


def test_proxy_refuses_connections_while_tangd_is_away(tmp_path: Path) -> None:
    with Tangd() as tangd:
        seal_site(tmp_path, tangd)
    with Proxy(tmp_path, CONFIG.replace("@upstream@", str(free_port()))) as proxy:
        failed = proxy.wait_for_event("failed")

        assert failed["code"] == 15
        assert proxy.is_refused()
        assert proxy.readiness()[0] == 503


def test_damaged_file_ends_with_18(tmp_path: Path, authority: Authority) -> None:
    sealed = (tmp_path / "site.jwe").read_bytes()
    (tmp_path / "site.jwe").write_bytes(sealed[:-4] + (b"AAAA" if sealed[-4:] != b"AAAA" else b"BBBB"))
    with Proxy(tmp_path, CONFIG.replace("@upstream@", str(free_port()))) as proxy:
        assert proxy.wait_for_end() == 18
        assert "unlatch: hint:" in proxy.text()
