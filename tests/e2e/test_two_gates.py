"""A file sealed to two gates: either opens it, or both must."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gate import Gate, code_in
from support.pki import Authority, new_key, pem
from support.product import Proxy, eventually, unlatch

pytestmark = pytest.mark.e2e

CONFIG = """\
unlock: {bundle: pay.jwe, gates: [@gates@]}
listeners:
  - bind: ["127.0.0.1:@port@"]
    certificates: [{chain: site.pem, key: "sealed:tls"}]
routes: [{upstream: app}]
upstreams: {app: {servers: ["127.0.0.1:@app@"]}}
workers: 1
admin: {socket: admin.sock, http: "127.0.0.1:@health@"}
"""


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[tuple[Gate, Gate]]:
    with Gate(tmp_path, name="north") as north, Gate(tmp_path, name="south") as south:
        yield north, south


def sealed(folder: Path, gates: tuple[Gate, Gate], app: int, *, threshold: int) -> tuple[str, Authority]:
    authority = Authority(folder)
    key = new_key("p256")
    (folder / "site.key").write_bytes(pem(key))
    authority.issue(folder / "site.pem", ["localhost"], key.public_key())
    pins = [{"url": gate.workload_url(), "thp": gate.thumbprint} for gate in gates]
    done = unlatch(
        *("seal", "--policy", json.dumps({"t": threshold, "pins": {"tang": pins}})),
        *("--workload", "pay", "--key", "tls=site.key", "--names", "localhost", "--out", "pay.jwe"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    config = CONFIG.replace("@gates@", ", ".join(gate.thumbprint for gate in gates))
    return config.replace("@app@", str(app)), authority


def code_of(proxy: Proxy, gate: Gate) -> str:
    """The code of the waiting line that names this gate's card."""

    def look() -> str | None:
        lines = [line for line in proxy.text().splitlines() if f"card {gate.url}/" in line]
        return code_in(lines[-1]) if lines else None

    return eventually("the waiting line", look)


def test_both_must_approve(tmp_path: Path, gates: tuple[Gate, Gate], upstream: int) -> None:
    north, south = gates
    config, authority = sealed(tmp_path, gates, upstream, threshold=2)
    with Proxy(tmp_path, config) as proxy:
        assert north.approve(code=code_of(proxy, north)).returncode == 0
        proxy.wait_for_event("change")
        assert proxy.is_refused()
        assert south.approve(code=code_of(proxy, south)).returncode == 0
        proxy.wait_for_event("serving")

        assert proxy.get(ca=authority.path) == (200, b"ok\n")


def test_either_opens_when_the_other_is_down(tmp_path: Path, gates: tuple[Gate, Gate], upstream: int) -> None:
    north, south = gates
    config, authority = sealed(tmp_path, gates, upstream, threshold=1)
    north.stop()
    with Proxy(tmp_path, config) as proxy:
        assert south.approve(code=code_of(proxy, south)).returncode == 0
        proxy.wait_for_event("serving")

        assert proxy.get(ca=authority.path) == (200, b"ok\n")


def test_one_denial_leaves_both_needed_locked(
    tmp_path: Path, gates: tuple[Gate, Gate], upstream: int
) -> None:
    north, south = gates
    config, _ = sealed(tmp_path, gates, upstream, threshold=2)
    with Proxy(tmp_path, config) as proxy:
        assert north.approve(code=code_of(proxy, north)).returncode == 0
        code_of(proxy, south)
        assert south.deny().returncode == 0

        assert proxy.wait_for_end() == 10
