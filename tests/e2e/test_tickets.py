"""Sessions that begin on one host and go on at another: two proxies, two guards, one sealed ticket secret."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.pki import Authority, new_key, pem
from support.product import Proxy, eventually, unlatch
from support.tangd import Tangd

pytestmark = pytest.mark.e2e

CONFIG = """\
unlock: {bundle: pay.jwe, gates: [@gate@], wait: 60s}
listeners:
  - bind: ["127.0.0.1:@port@"]
    certificates: [{chain: tls.pem, key: "sealed:tls"}]
routes: [{upstream: app}]
upstreams: {app: {servers: ["127.0.0.1:@app@"]}}
workers: 1
timeouts: {drain: 1s}
admin: {socket: admin.sock, http: "127.0.0.1:@health@"}
"""
FLEET = "tickets: {secret: fleet}\n"


@dataclass(slots=True)
class Fleet:
    """Sealed folders with one certificate; each proxy runs in a folder of its own."""

    folder: Path
    tangd: Tangd
    app: int
    authority: Authority
    count: int = 0

    def host(self, tickets: str = FLEET, *, sealed: str = "pay.jwe") -> Proxy:
        """A new host of the fleet, not yet serving."""
        self.count += 1
        folder = self.folder / f"host{self.count}"
        folder.mkdir()
        shutil.copy(self.folder / sealed, folder / "pay.jwe")
        shutil.copy(self.folder / "tls.pem", folder)
        config = CONFIG.replace("@gate@", self.tangd.thumbprint).replace("@app@", str(self.app))
        return Proxy(folder, config + tickets)

    def seal(self, name: str) -> None:
        to = ("seal", "--to", self.tangd.url, "--thp", self.tangd.thumbprint, "--workload", "pay")
        what = ("--key", "tls=tls.key", "--names", "localhost", "--tickets", "fleet", "--out", name)
        result = unlatch(*to, *what, cwd=self.folder)
        assert result.returncode == 0, result.stderr


@pytest.fixture
def fleet(tmp_path: Path, tangd: Tangd, upstream: int) -> Fleet:
    made = Fleet(tmp_path, tangd, upstream, Authority(tmp_path))
    key = new_key("p256")
    (tmp_path / "tls.key").write_bytes(pem(key))
    made.authority.issue(tmp_path / "tls.pem", ["localhost"], key.public_key())
    made.seal("pay.jwe")
    return made


@pytest.fixture
def hosts(fleet: Fleet) -> Iterator[tuple[Proxy, Proxy]]:
    with ExitStack() as stack:
        one, other = (stack.enter_context(fleet.host()) for _ in range(2))
        for proxy in (one, other):
            proxy.wait_for_event("serving")
        yield one, other


class Browser:
    """A client that keeps its session."""

    def __init__(self, fleet: Fleet) -> None:
        self._context = ssl.create_default_context(cafile=str(fleet.authority.path))
        self.session: ssl.SSLSession | None = None

    def resumes(self, proxy: Proxy) -> bool:
        """One request; whether the session of the one before went on."""
        with (
            socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as plain,
            self._context.wrap_socket(plain, server_hostname="localhost", session=self.session) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert tls.recv(4096).startswith(b"HTTP/1.1 200")
            self.session = tls.session
            return bool(tls.session_reused)


def foreign_tickets(proxy: Proxy) -> int:
    return int(proxy.status()["processes"]["guard"]["foreign_tickets"])


def test_session_goes_on_at_another_host_and_is_counted_there(
    fleet: Fleet, hosts: tuple[Proxy, Proxy]
) -> None:
    one, other = hosts
    browser = Browser(fleet)

    assert [browser.resumes(proxy) for proxy in (one, other, one, one)] == [False, True, True, True]
    assert (foreign_tickets(one), foreign_tickets(other)) == (1, 1)


def test_session_goes_on_when_edge_was_started_again(fleet: Fleet, hosts: tuple[Proxy, Proxy]) -> None:
    one, _ = hosts
    browser = Browser(fleet)
    browser.resumes(one)
    before = one.pid("edge")
    os.kill(before, signal.SIGKILL)
    eventually("restart", lambda: True if one.pid("edge") != before else None)

    assert browser.resumes(one)
    assert foreign_tickets(one) == 0


def test_session_goes_on_when_the_proxy_was_started_again(fleet: Fleet) -> None:
    browser = Browser(fleet)
    with fleet.host() as proxy:
        proxy.wait_for_event("serving")
        assert not browser.resumes(proxy)
    with fleet.host() as proxy:
        proxy.wait_for_event("serving")
        assert browser.resumes(proxy)


@pytest.mark.parametrize(("sealed", "tickets"), [("other.jwe", FLEET), ("pay.jwe", "")])
def test_session_ends_where_the_secret_is_another_one(
    fleet: Fleet, hosts: tuple[Proxy, Proxy], sealed: str, tickets: str
) -> None:
    one, _ = hosts
    fleet.seal("other.jwe")
    browser = Browser(fleet)
    browser.resumes(one)
    with fleet.host(tickets, sealed=sealed) as stranger:
        stranger.wait_for_event("serving")

        assert not browser.resumes(stranger)
        assert foreign_tickets(stranger) == 0
        # Its own tickets count there.
        assert browser.resumes(stranger)


def test_epoch_of_the_configuration_holds_and_another_one_needs_a_new_start(fleet: Fleet) -> None:
    browser = Browser(fleet)
    with fleet.host("tickets: {secret: fleet, epoch: 10s}\n") as proxy, fleet.host() as hourly:
        proxy.wait_for_event("serving")
        browser.resumes(proxy)
        assert browser.session is not None
        assert browser.session.ticket_lifetime_hint == 10
        # Another length, another chain.
        hourly.wait_for_event("serving")
        assert not browser.resumes(hourly)

        proxy.config.write_text(proxy.config.read_text().replace("10s", "20s"))
        result = proxy.command("reload")
        assert (result.returncode, b"tickets.epoch" in result.stderr) == (19, True)


def test_ticket_secret_that_is_none_is_refused(fleet: Fleet) -> None:
    with fleet.host("tickets: {secret: tls}\n") as proxy:
        assert proxy.wait_for_end() == 21
        assert "no ticket secret named" in proxy.text()
