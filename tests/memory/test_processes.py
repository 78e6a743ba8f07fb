"""No key and no token stands in clear in any process of the proxy; the same scan finds them in an ordinary server."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.product import Proxy
from support.sealed_site import KINDS, TOKEN, Site, host_of, seal_site
from support.tangd import Tangd
from support.upstream import serving_ok

pytestmark = [pytest.mark.memory, pytest.mark.e2e]

SCRAPE = Path(__file__).with_name("scrape.py")
HANDSHAKES = 200
REQUESTS = 200

PLAIN_SERVER = """
import ssl, sys
contexts = []
for chain, key in zip(sys.argv[1::2], sys.argv[2::2]):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    contexts.append(context)
token = open("token").read()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Proxy]]:
    """A proxy that has served its handshakes and requests."""
    if os.getuid() != 0:
        pytest.fail("reading the memory of non-dumpable processes needs root")
    folder = tmp_path_factory.mktemp("worked")
    with Tangd() as tangd, serving_ok() as upstream:
        site = seal_site(folder, tangd.url, tangd.thumbprint, upstream)
        with Proxy(folder, site.config) as proxy:
            proxy.wait_for_event("serving")
            for kind in KINDS:
                for _ in range(HANDSHAKES):
                    handshake(proxy, site, host_of(kind))
            for _ in range(REQUESTS):
                assert proxy.get("/psp/v1/x", ca=site.authority.path)[0] == 200
            yield site, proxy
        site.psp.close()


def handshake(proxy: Proxy, site: Site, host: str) -> None:
    context = ssl.create_default_context(cafile=str(site.authority.path))
    with (
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host),
    ):
        return


def scrape(site: Site, *arguments: str) -> tuple[int, dict[str, object]]:
    """Exit code and report: 0 no hit, 1 hits, 2 could not scan."""
    keys = [value for kind in KINDS for value in ("--key", f"{kind}={kind}.key")]
    result = subprocess.run(
        [sys.executable, str(SCRAPE), *keys, "--secret-file", "token", "--json", "-", *arguments],
        capture_output=True,
        cwd=site.folder,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr.decode()
    return result.returncode, json.loads(result.stdout)


def test_no_process_of_the_proxy_holds_a_key_or_token(worked: tuple[Site, Proxy]) -> None:
    site, proxy = worked
    unreadable = ("--fail-on-unreadable", "--secretmem-apart")
    code, report = scrape(site, "--tree", str(proxy.process.pid), *unreadable)
    processes = report["processes"]
    assert isinstance(processes, list)

    assert len(processes) == 4, "supervisor, guard, edge, egress"
    assert code == 0, json.dumps(report["summary"])


def test_same_scan_finds_all_of_them_in_an_ordinary_server(worked: tuple[Site, Proxy]) -> None:
    site, _ = worked
    files = [value for kind in KINDS for value in (f"{kind}.pem", f"{kind}.key")]
    server = subprocess.Popen(
        [sys.executable, "-c", PLAIN_SERVER, *files],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=site.folder,
    )
    assert server.stdout
    server.stdout.readline()
    try:
        code, report = scrape(site, "--pid", str(server.pid))
    finally:
        server.communicate()
    summary = report["summary"]
    assert isinstance(summary, dict)

    assert code == 1
    assert set(summary) >= {*KINDS, "token"}


def test_token_of_the_test_is_what_the_scan_looks_for(worked: tuple[Site, Proxy]) -> None:
    site, _ = worked

    assert (site.folder / "token").read_text() == TOKEN
    assert site.psp.seen[-1] == ("/v1/x", f"Bearer {TOKEN}")
