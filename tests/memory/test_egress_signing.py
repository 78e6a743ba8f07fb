"""Neither egress nor edge holds the keys that sign for upstreams, at rest after use; the control finds them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.egress_site import LOGINS, EgressSite, ask, seal_egress_site
from support.product import Proxy
from support.tangd import Tangd

pytestmark = [pytest.mark.memory, pytest.mark.e2e]

SCRAPE = Path(__file__).with_name("scrape.py")
ROUNDS = 40
SECRETS = ("hook", "s3")
KEYS = (*LOGINS, "robot")
HOLDER = """
import sys
held = [open(name, "rb").read() for name in sys.argv[1:]]
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EgressSite, Proxy]]:
    """A proxy that has signed for its upstreams."""
    if os.getuid() != 0:
        pytest.fail("reading the memory of non-dumpable processes needs root")
    with Tangd() as tangd:
        site = seal_egress_site(tmp_path_factory.mktemp("egress"), tangd.url, tangd.thumbprint)
        with Proxy(site.folder, site.config) as proxy:
            proxy.wait_for_event("serving")
            for _ in range(ROUNDS):
                for target in ("/hook/v1/x", "/s3/x", "/robot/v1/x", "/login-p256/x", "/login-rsa/x"):
                    assert ask(site, proxy, target)[0] == 200
            yield site, proxy
        site.close()


def scrape(site: EgressSite, *pids: int) -> tuple[int, str]:
    """Exit code (0 no hit, 1 hits, 2 could not scan) and report."""
    keys = [part for name in KEYS for part in ("--key", f"{name}={name}.key")]
    tokens = [part for name in SECRETS for part in ("--secret", f"{name}=@{name}.secret")]
    targets = [part for pid in pids for part in ("--pid", str(pid))]
    result = subprocess.run(
        [sys.executable, str(SCRAPE), *keys, *tokens, "--json", "-", *targets],
        capture_output=True,
        cwd=site.folder,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr.decode()
    return result.returncode, json.dumps(json.loads(result.stdout)["summary"])


def test_processes_that_talk_to_the_network_hold_no_signing_key(worked: tuple[EgressSite, Proxy]) -> None:
    site, proxy = worked
    code, summary = scrape(site, proxy.pid("egress"), proxy.pid("edge"))

    assert code == 0, summary


def test_same_scan_finds_all_of_them_where_they_lie(worked: tuple[EgressSite, Proxy]) -> None:
    site, _ = worked
    files = [*(f"{name}.key" for name in KEYS), *(f"{name}.secret" for name in SECRETS)]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=site.folder
    )
    assert holder.stdout
    holder.stdout.readline()
    try:
        code, summary = scrape(site, holder.pid)
    finally:
        holder.communicate()

    assert code == 1
    assert set(json.loads(summary)) >= {*KEYS, *SECRETS}
