"""Who uses edge's socket to guard without handshakes is noticed; an ordinary day with clients that hang up is not."""

from __future__ import annotations

import ctypes
import os
import socket
import ssl
import time

import pytest
from support.guard_client import WorkerClient, certificate_verify
from support.product import Proxy
from support.sealed_site import Site

pytestmark = pytest.mark.e2e

PIDFD_GETFD = 438
P256 = 0x0403


def stolen_socket(proxy: Proxy) -> WorkerClient:
    """The supervisor's copy of edge's socket to guard, as who took over edge would use it."""
    facts = proxy.status()["processes"]["edge"]
    handle = os.pidfd_open(proxy.process.pid)
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, handle, facts["guard"][0], 0)
    os.close(handle)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    return WorkerClient(socket.socket(fileno=descriptor))


def hang_up_in_the_middle(site: Site, proxy: Proxy) -> None:
    """Ask for a handshake, take the server's answer, and go."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=str(site.authority.path))
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as plain:
        plain.sendall(outgoing.read())
        assert plain.recv(5)[:1] == b"\x16"


def test_signatures_without_handshakes_raise_the_alarm(site: Site, proxy: Proxy) -> None:
    assert proxy.get(ca=site.authority.path) == (200, b"ok\n")
    before = proxy.status()
    key = next(one["id"] for one in before["processes"]["guard"]["keys"] if one["name"] == "p256")
    thief = stolen_socket(proxy)
    for _ in range(300):
        thief.sign(key, P256, certificate_verify())
    thief.socket.close()

    told = proxy.wait_for_event("anomaly")
    assert told["count"] == 1
    assert told["signatures"] >= 300
    status = proxy.status()
    assert (before["anomalies"], status["anomalies"]) == (0, 1)
    assert any(line.startswith("anomaly: more signatures than") for line in status["weaker"])
    assert proxy.command("status").returncode == 24
    # It is an alarm, not a brake.
    assert proxy.get(ca=site.authority.path) == (200, b"ok\n")


def test_ordinary_day_raises_none(site: Site, proxy: Proxy) -> None:
    for number in range(240):
        if number % 4:
            assert proxy.get(ca=site.authority.path)[0] == 200
        else:
            hang_up_in_the_middle(site, proxy)
    signatures = proxy.status()["processes"]["guard"]["handshake_signatures"]
    # The supervisor looks every two seconds: it has looked at all of it when this is over.
    time.sleep(2.5)

    assert signatures >= 240
    assert proxy.status()["anomalies"] == 0
    assert not any(event["event"] == "anomaly" for event in proxy.events())
