"""The proxy as a service manager and its operators see it: notifications, signals, admin socket, health address."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gate import Gate, code_in
from support.product import UNLATCH, Proxy, Running, eventually
from support.sealed_site import Site

pytestmark = pytest.mark.e2e


@pytest.fixture
def notifications(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        yield manager


def test_service_manager_hears_each_step_and_never_the_code(
    gate: Gate, gated: Site, notifications: socket.socket
) -> None:
    with Proxy(gated.folder, gated.config, extra={"NOTIFY_SOCKET": str(gated.folder / "notify")}) as proxy:
        heard = [notifications.recv(4096).decode()]
        while "asking" not in heard[-1]:
            heard.append(notifications.recv(4096).decode())
        code = code_in(proxy.text())
        assert code
        assert gate.approve(code=code).returncode == 0
        while "READY=1" not in heard[-1]:
            heard.append(notifications.recv(4096).decode())
        proxy.process.send_signal(signal.SIGTERM)
        while "STOPPING=1" not in heard[-1]:
            heard.append(notifications.recv(4096).decode())

    asking = next(text for text in heard if "asking" in text)
    assert f"{gate.url}/r/" in asking
    assert "EXTEND_TIMEOUT_USEC=" in asking
    assert all(code not in text for text in heard)


def test_terminated_proxy_finishes_the_request_under_way(tmp_path: Path, gate: Gate, gated: Site) -> None:
    slow = socket.create_server(("127.0.0.1", 0))
    asked, go_on = threading.Event(), threading.Event()

    def answer() -> None:
        connection, _ = slow.accept()
        with connection:
            connection.recv(4096)
            asked.set()
            go_on.wait(20)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")

    thread = threading.Thread(target=answer)
    thread.start()
    config = gated.config.replace(f"127.0.0.1:{gated.app}", f"127.0.0.1:{slow.getsockname()[1]}")
    with Proxy(gated.folder, config.replace("drain: 2s", "drain: 20s")) as proxy:
        proxy.wait_for_event("asking")
        code = code_in(proxy.text())
        assert code
        assert gate.approve(code=code).returncode == 0
        proxy.wait_for_event("serving")
        answers: list[tuple[int, bytes]] = []
        client = threading.Thread(target=lambda: answers.append(proxy.get(ca=gated.authority.path)))
        client.start()
        assert asked.wait(20)
        proxy.process.send_signal(signal.SIGTERM)
        eventually("a shut door", lambda: True if proxy.is_refused() else None)
        go_on.set()
        client.join()
        code_of_end = proxy.wait_for_end()
    thread.join()
    slow.close()

    assert answers == [(200, b"slow")]
    assert code_of_end == 0


def test_hangup_takes_over_a_renewed_chain(site: Site, proxy: Proxy) -> None:
    request = proxy.command("csr", "p256").stdout
    site.authority.issue_for_request(site.folder / "p256.pem", request)
    proxy.process.send_signal(signal.SIGHUP)
    proxy.wait_for_event("reloaded")

    served = ssl.get_server_certificate(("127.0.0.1", proxy.port))
    assert served.strip().encode() == (site.folder / "p256.pem").read_bytes().strip()


def test_hangup_with_a_broken_configuration_changes_nothing(site: Site, proxy: Proxy) -> None:
    proxy.config.write_text("listeners: [")
    proxy.process.send_signal(signal.SIGHUP)
    refused = proxy.wait_for_event("reload refused")

    assert "proxy.yaml" in refused["message"]
    assert proxy.get(ca=site.authority.path) == (200, b"ok\n")


def test_health_address_tells_locked_from_serving(gate: Gate, gated: Site) -> None:
    with Proxy(gated.folder, gated.config) as proxy:
        proxy.wait_for_event("asking")
        before = proxy.readiness()
        code = code_in(proxy.text())
        assert code
        assert gate.approve(code=code).returncode == 0
        proxy.wait_for_event("serving")
        after = proxy.readiness()

    assert (before, after) == ((503, "asking"), (200, "serving"))


def test_second_instance_on_the_same_socket_is_refused(site: Site, proxy: Proxy) -> None:
    mode = stat.S_IMODE((site.folder / "admin.sock").stat().st_mode)
    (site.folder / "second.yaml").write_text(site.config.replace("@port@", "0").replace("@health@", "0"))
    with Running([*UNLATCH, "serve", "-c", "second.yaml"], folder=site.folder, name="second") as second:
        code = second.wait_for_end()
        said = second.text()

    assert mode == 0o600
    assert code == 21
    assert "another unlatch serves on" in said
    assert proxy.get(ca=site.authority.path) == (200, b"ok\n")


def uid_of(pid: int) -> set[int]:
    """Real, effective, saved and file system user of a process."""
    (line,) = (
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:")
    )
    return set(map(int, line.split()[1:]))


def test_guard_edge_and_egress_are_users_of_their_own(proxy: Proxy) -> None:
    assert os.getuid() == 0, "this test needs root"
    users = [uid_of(proxy.pid(role)) for role in ("guard", "edge", "egress")]
    groups = [
        line
        for role in ("guard", "edge", "egress")
        for line in Path(f"/proc/{proxy.pid(role)}/status").read_text().splitlines()
        if line.startswith("Groups:")
    ]

    assert all(len(user) == 1 and user != {0} for user in users)
    assert len(set.union(*users)) == 3
    assert [line.split() for line in groups] == [["Groups:"]] * 3


def test_users_may_be_named_and_stay_over_a_restart(site: Site) -> None:
    config = site.config + "users: {guard: 61001, edge: 61002, egress: 61003}\n"
    with Proxy(site.folder, config) as proxy:
        proxy.wait_for_event("serving")
        before = proxy.pid("edge")
        os.kill(before, signal.SIGKILL)
        eventually("restart", lambda: True if proxy.pid("edge") != before else None)
        seen = [uid_of(proxy.pid(role)) for role in ("guard", "edge", "egress")]

    assert seen == [{61001}, {61002}, {61003}]


def test_status_says_what_this_system_lacks(proxy: Proxy) -> None:
    before = proxy.command("status")
    missing = proxy.status()["processes"]["guard"]["memory"]["weaker"]
    accepted = ", ".join(one["name"] for one in missing)
    proxy.config.write_text(proxy.config.read_text() + f"guard: {{accept: [{accepted}]}}\n")
    assert proxy.command("reload").returncode == 0
    after = proxy.command("status")

    assert before.returncode == (24 if missing else 0)
    assert before.stdout.decode().count("weaker: ") == len(missing)
    assert (after.returncode, after.stdout.count(b"weaker: ")) == (0, 0)


def test_missing_protection_that_is_required_ends_the_start(site: Site) -> None:
    with Proxy(site.folder, site.config) as proxy:
        proxy.wait_for_event("serving")
        present = proxy.status()["processes"]["guard"]["memory"]
    missing = [one["name"] for one in present["weaker"]]
    wanted = missing or ["keyring"]
    config = site.config + f"guard: {{require: [{', '.join(wanted)}]}}\n"
    with Proxy(site.folder, config) as proxy:
        if missing:
            assert proxy.wait_for_end() == 21
            assert missing[0] in proxy.text()
        else:
            proxy.wait_for_event("serving")
