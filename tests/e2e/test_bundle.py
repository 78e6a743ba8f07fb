"""One sealed bundle: every key type and TLS version, tokens through egress, and edits of the configuration."""

from __future__ import annotations

import os
import signal
import socket
import ssl

import pytest
from support.product import Proxy, eventually, is_running, unlatch
from support.sealed_site import KINDS, TOKEN, Site, host_of

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_each_key_serves_each_version(site: Site, proxy: Proxy, kind: str, version: ssl.TLSVersion) -> None:
    answer = proxy.get(ca=site.authority.path, host=host_of(kind), version=version)

    assert answer == (200, b"ok\n")


def test_token_arrives_at_its_upstream_only(site: Site, proxy: Proxy) -> None:
    answer = proxy.get("/psp/v1/charge", ca=site.authority.path, headers={"Authorization": "Bearer forged"})

    assert answer == (200, b"psp")
    assert site.psp.seen == [("/v1/charge", f"Bearer {TOKEN}")]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/psp/v2/charge", "GET", 403),
        ("/psp/v1/charge", "DELETE", 403),
        ("/psp/v1/%2e%2e/v2", "GET", 400),
        ("/psp/v1/..%2fv2", "GET", 400),
        ("/psp/v1//x", "GET", 400),
        ("/psp/v1/x;y", "GET", 400),
    ],
)
def test_request_outside_the_rules_gets_no_token(
    site: Site, proxy: Proxy, path: str, method: str, status: int
) -> None:
    answer = proxy.get(path, ca=site.authority.path, method=method)

    assert answer[0] == status
    assert site.psp.seen == []


@pytest.mark.parametrize("role", ["edge", "egress"])
def test_killed_child_is_back_with_no_unlock(site: Site, proxy: Proxy, role: str) -> None:
    before = proxy.pid(role)
    os.kill(before, signal.SIGKILL)
    eventually("restart", lambda: True if proxy.pid(role) != before else None)

    assert proxy.get("/psp/v1/x", ca=site.authority.path) == (200, b"psp")
    assert sum(event["event"] == "unlocked" for event in proxy.events()) == 1


def test_no_connection_is_refused_while_edge_is_dead(site: Site, proxy: Proxy) -> None:
    os.kill(proxy.pid("edge"), signal.SIGKILL)
    refused = []
    while sum(event["event"] == "edge started" for event in proxy.events()) < 2:
        refused.append(proxy.is_refused())
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10):
        after = proxy.get(ca=site.authority.path)

    assert refused
    assert not any(refused)
    assert after == (200, b"ok\n")


def test_killed_guard_shuts_the_door_and_unlocks_again(site: Site, proxy: Proxy) -> None:
    os.kill(proxy.pid("guard"), signal.SIGKILL)
    proxy.wait_for_event("guard died")
    proxy.wait_for_event("serving", count=2)

    assert proxy.get(ca=site.authority.path) == (200, b"ok\n")
    assert sum(event["event"] == "unlocked" for event in proxy.events()) == 2


def test_killed_supervisor_leaves_nobody_behind(site: Site, proxy: Proxy) -> None:
    pids = [proxy.pid(role) for role in ("guard", "edge", "egress")]
    proxy.process.kill()
    proxy.process.wait()

    eventually("the end of every process", lambda: True if not any(map(is_running, pids)) else None)


def test_relock_refuses_connections_until_unlock(site: Site, proxy: Proxy) -> None:
    assert proxy.command("relock").returncode == 0
    proxy.wait_for_event("relocked")
    refused, state = proxy.is_refused(), proxy.command("status").returncode
    assert proxy.command("unlock", "--reason", "after the drill").returncode == 0
    proxy.wait_for_event("serving", count=2)

    assert (refused, state) == (True, 12)
    assert proxy.get(ca=site.authority.path) == (200, b"ok\n")


def test_renewal_needs_no_unlock(site: Site, proxy: Proxy) -> None:
    request = proxy.command("csr", "p256")
    assert request.returncode == 0, request.stderr
    before = (site.folder / "p256.pem").read_bytes()
    site.authority.issue_for_request(site.folder / "p256.pem", request.stdout)
    assert proxy.command("reload").returncode == 0

    served = ssl.get_server_certificate(("127.0.0.1", proxy.port))
    assert served.strip().encode() == (site.folder / "p256.pem").read_bytes().strip() != before.strip()
    assert sum(event["event"] == "unlocked" for event in proxy.events()) == 1


EDITS = {
    "token elsewhere": ("tls: {name: localhost", "tls: {name: evil.example"),
    "another authority": ("ca: ca.pem}", "ca: other.pem}"),
    "wider path": ("secret: psp,", 'secret: psp, paths: ["/*"],'),
    "wider method": ("secret: psp,", "secret: psp, methods: [DELETE],"),
    "anyone": ('callers: ["127.0.0.0/8"]', "callers: [anyone]"),
    "wider network": ('callers: ["127.0.0.0/8"]', 'callers: ["0.0.0.0/0"]'),
    "another header": ("header: Authorization", "header: X-Token"),
    "another key for the name": (
        '{chain: p256.pem, key: "sealed:p256"}',
        '{chain: p256.pem, key: "sealed:rsa"}',
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_configuration_wider_than_the_rules_is_refused_at_start(site: Site, edit: str) -> None:
    with Proxy(site.folder, edited(site, edit)) as proxy:
        assert proxy.wait_for_end() == 21
        assert "unlatch: error:" in proxy.text()


@pytest.mark.parametrize("edit", EDITS)
def test_configuration_wider_than_the_rules_is_refused_at_reload(site: Site, proxy: Proxy, edit: str) -> None:
    text = edited(site, edit).replace("@port@", str(proxy.port)).replace("@health@", str(proxy.health))
    proxy.config.write_text(text)
    result = proxy.command("reload")

    assert result.returncode == 21, result.stderr
    assert proxy.get("/psp/v1/x", ca=site.authority.path) == (200, b"psp")


def edited(site: Site, edit: str) -> str:
    old, new = EDITS[edit]
    assert old in site.config
    (site.folder / "other.pem").write_bytes((site.folder / "psp.pem").read_bytes())
    return site.config.replace(old, new, 1)


def test_check_accepts_the_site_and_names_a_missing_chain(site: Site) -> None:
    (site.folder / "unlatch.yaml").write_text(site.config.replace("@port@", "0").replace("@health@", "0"))
    good = unlatch("check", "-c", "unlatch.yaml", cwd=site.folder)
    (site.folder / "rsa.pem").unlink()
    bad = unlatch("check", "-c", "unlatch.yaml", cwd=site.folder)

    assert (good.returncode, bad.returncode) == (0, 21), good.stderr
    assert b"rsa.pem" in bad.stderr
