"""Many handshakes at once on a key in a token: bounded as configured, all of them served, and told by `status`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.key_site import KeySite, key_uri
from support.product import Proxy, eventually
from support.softhsm import SoftHsm
from support.tangd import Tangd

pytestmark = [pytest.mark.e2e, pytest.mark.interop]
SOFT, HARD = "localhost", "rsa.localhost"


@pytest.fixture
def key_site(tmp_path: Path, tangd: Tangd) -> Iterator[KeySite]:
    with SoftHsm() as tokens:
        tokens.add_token("prod")
        site = KeySite(tmp_path, tokens, tangd)
        site.certificates = [
            site.add_sealed("soft", "ed25519", SOFT),
            site.add_hardware("rsa", "rsa", HARD),
        ]
        site.seal()
        yield site


def crowd(proxy: Proxy, site: KeySite, count: int) -> list[bool | None]:
    """So many clients at once."""
    with ThreadPoolExecutor(12) as pool:
        return list(pool.map(lambda _: site.answers(proxy, HARD), range(count)))


def test_at_most_slow_signatures_are_with_the_token(key_site: KeySite, upstream: int) -> None:
    with key_site.serve(upstream, more="limits: {slow_signatures: 2}\n") as proxy:
        proxy.wait_for_event("serving")
        eventually("the first answer", lambda: key_site.answers(proxy, HARD))
        served = crowd(proxy, key_site, 60)
        before = proxy.status()["processes"]["edge"]["counters"]["slow"]
        text = proxy.config.read_text()
        proxy.config.write_text(text.replace("slow_signatures: 2", "slow_signatures: 19"))
        assert proxy.command("reload").returncode == 0
        after = proxy.status()["processes"]["edge"]["counters"]["slow"]

    assert served == [True] * 60
    assert (before["bound"], before["most_in_flight"]) == (2, 2)
    assert after["bound"] == 19


def test_status_tells_how_long_each_key_takes(key_site: KeySite, upstream: int) -> None:
    with key_site.serve(upstream) as proxy:
        proxy.wait_for_event("serving")
        eventually("the first answer", lambda: key_site.answers(proxy, HARD))
        crowd(proxy, key_site, 10)
        key_site.answers(proxy, SOFT)
        keys = {one["name"]: one for one in proxy.status()["keys"]}
        shown = proxy.command("status").stdout.decode()

    hard, soft = keys[key_uri("rsa")], keys["soft"]
    assert (hard["signatures"], hard["algorithm"], hard["state"]) == (11, "rsa-2048", "ready")
    assert 0 < hard["p50_ms"] <= hard["p99_ms"]
    assert (soft["signatures"], soft["failed"]) == (1, 0)
    assert "state" not in soft
    assert f"key {key_uri('rsa')}: 11 signatures, p50 " in shown


def test_killed_edge_gets_new_sockets_for_slow_keys(key_site: KeySite, upstream: int) -> None:
    # With 16 workers every socket that guard has is in use.
    with key_site.serve(upstream, workers=16) as proxy:
        proxy.wait_for_event("serving")
        for count in (2, 3):
            os.kill(proxy.pid("edge"), signal.SIGKILL)
            proxy.wait_for_event("edge started", count=count)
        served = eventually("an answer", lambda: key_site.answers(proxy, HARD))

    assert served
