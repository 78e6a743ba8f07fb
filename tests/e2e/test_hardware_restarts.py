"""A thousand handshakes on keys in hardware, across restarts of edge and of the supervisor.

Servers that fork with a PKCS#11 module open sign wrongly or hang after a restart (haproxy#71); a custodian is started
after every fork and belongs to no process that is killed here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificates
from support.gate import Gate, code_in
from support.hardware_site import IN_TPM, TOKENS, HardwareSite
from support.product import Proxy, eventually
from support.softhsm import SoftHsm
from support.swtpm import Swtpm

pytestmark = [pytest.mark.e2e, pytest.mark.interop]

HANDSHAKES, CLIENTS, RUNS, KILLS = 1000, 3, 3, 3
HOSTS = (*TOKENS, IN_TPM)
QUESTION = b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"


@dataclass
class Crowd:
    """Clients that make whole handshakes and one request each, and note when which failed."""

    site: HardwareSite
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failed: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = dict(zip(HOSTS, ("p256", "rsa", "tpm"), strict=True))
        chains = {host: (self.site.folder / f"{name}.pem").read_bytes() for host, name in names.items()}
        self._leaf = {
            host: hashlib.sha256(load_pem_x509_certificates(chain)[0].public_bytes(Encoding.DER)).digest()
            for host, chain in chains.items()
        }

    def ask(self, port: int, host: str) -> None:
        """One handshake: right, wrong, or none."""
        context = ssl.create_default_context(cafile=str(self.site.authority.path))
        began = time.monotonic()
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname=host) as tls,
            ):
                shown = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").digest()
                tls.sendall(QUESTION % host.encode())
                answer = tls.recv(4096)
        except ssl.SSLCertVerificationError as error:
            self.wrong.append(str(error))
        except ssl.SSLError as error:
            # A peer that checks signatures says so; a server that cannot sign sends an alert or nothing.
            (self.wrong if "SIGNATURE" in str(error.reason) else self.failed).append(  # type: ignore[attr-defined]
                str(error) if "SIGNATURE" in str(error.reason) else (began, time.monotonic())
            )
        except OSError:
            self.failed.append((began, time.monotonic()))
        else:
            if shown != self._leaf[host]:
                self.wrong.append(f"another certificate for {host}")
            elif answer.startswith(b"HTTP/1.1 200"):
                self.done[host] += 1
            else:
                self.failed.append((began, time.monotonic()))

    @contextlib.contextmanager
    def at_work(self, port: int, *, until: int) -> Iterator[None]:
        """Ask from several clients until so many handshakes were made, and at least for one block."""
        over = threading.Event()

        def work(first: int) -> None:
            for turn in range(first, 1_000_000):
                if over.is_set() and self.done.total() >= until:
                    return
                self.ask(port, HOSTS[turn % len(HOSTS)])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()


def test_thousand_handshakes_across_restarts(tmp_path: Path, gate: Gate, upstream: int) -> None:
    dead: list[tuple[float, float]] = []
    with SoftHsm() as hsm, Swtpm() as tpm:
        hsm.add_token("prod")
        to_gate = ("--to", gate.workload_url(), "--thp", gate.thumbprint)
        site = HardwareSite(tmp_path, hsm, *to_gate, gate=gate.thumbprint)
        site.add_tpm_key(tpm.tcti)
        crowd = Crowd(site)
        for run in range(1, RUNS + 1):
            with site.serve(upstream, name=f"proxy{run}") as proxy:
                approve(gate, proxy)
                for host in HOSTS:
                    eventually(f"the first answer of {host}", lambda host=host: site.answers(proxy, host))  # type: ignore[misc]
                with crowd.at_work(proxy.port, until=run * HANDSHAKES // RUNS + 1):
                    for kill in range(KILLS):
                        so_far = crowd.done.total()
                        eventually(
                            "more handshakes", lambda so_far=so_far: crowd.done.total() > so_far + 50 or None
                        )  # type: ignore[misc]
                        dead.append(kill_edge(proxy, count=kill + 2))
    signed = crowd.done.total()
    unexplained = [one for one in crowd.failed if not any(overlap(one, gap) for gap in dead)]

    assert crowd.wrong == []
    assert unexplained == []
    assert signed >= HANDSHAKES
    assert min(crowd.done[host] for host in HOSTS) > HANDSHAKES // 5


def approve(gate: Gate, proxy: Proxy) -> None:
    """Read the code on the console and approve, as each start of the supervisor wants it."""
    proxy.wait_for_event("asking")
    code = eventually("the code", lambda: code_in(proxy.text()))
    assert gate.approve(code=code).returncode == 0
    proxy.wait_for_event("serving")


def kill_edge(proxy: Proxy, *, count: int) -> tuple[float, float]:
    """Kill -9; gives when it was dead."""
    pid = proxy.pid("edge")
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    proxy.wait_for_event("edge started", count=count)
    return began, time.monotonic()


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two times share a moment."""
    return one[0] <= other[1] and other[0] <= one[1]
