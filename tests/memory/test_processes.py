"""No key and no token stands in clear in any process of the proxy, in any phase of its life.

The same scan finds all of them in an ordinary server. It is made twice: on the host as it is, and on one without
secret memory, where every page of every process can be read from outside.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import weaker_host
from support.product import Proxy, eventually
from support.sealed_site import KINDS, TOKEN, Site, host_of, seal_site
from support.tangd import Tangd
from support.upstream import serving_ok
from support.valve import Valve

pytestmark = [pytest.mark.memory, pytest.mark.e2e]

LOG = logging.getLogger(__name__)
SCRAPE = Path(__file__).with_name("scrape.py")
HANDSHAKES = 200
REQUESTS = 200
STALLED = 20
SAMPLES = 100
WITHOUT_SECRET_MEMORY = (sys.executable, str(Path(weaker_host.__file__)), "--deny", "memfd_secret")
HOSTS = {"as it is": (), "without secret memory": WITHOUT_SECRET_MEMORY}
UNREADABLE = ("--fail-on-unreadable", "--secretmem-apart")

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

Phase = tuple[str, set[str]]
SERVING = {"supervisor", "guard", "edge", "egress"}


@pytest.fixture(scope="module")
def tang() -> Iterator[tuple[Tangd, Valve]]:
    """A Tang server behind a valve."""
    if os.getuid() != 0:
        pytest.fail("reading the memory of non-dumpable processes needs root")
    with Tangd() as tangd, Valve(int(tangd.url.rpartition(":")[2])) as valve:
        yield tangd, valve


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tang: tuple[Tangd, Valve]) -> Iterator[Site]:
    tangd, valve = tang
    folder = tmp_path_factory.mktemp("worked")
    with serving_ok() as upstream:
        made = seal_site(folder, f"http://127.0.0.1:{valve.port}", tangd.thumbprint, upstream)
        yield made
        made.psp.close()


def dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def handshake(proxy: Proxy, site: Site, host: str) -> None:
    context = ssl.create_default_context(cafile=str(site.authority.path))
    with dial(proxy) as plain, context.wrap_socket(plain, server_hostname=host):
        return


def work(proxy: Proxy, site: Site, handshakes: int, requests: int) -> None:
    for kind in KINDS:
        for _ in range(handshakes):
            handshake(proxy, site, host_of(kind))
    for _ in range(requests):
        assert proxy.get("/psp/v1/x", ca=site.authority.path)[0] == 200


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@contextlib.contextmanager
def stalled_connections(proxy: Proxy, site: Site) -> Iterator[None]:
    """Clients that say nothing, half a hello, a whole one without the rest, and some that rest after a handshake."""
    hello = client_hello()
    context = ssl.create_default_context(cafile=str(site.authority.path))
    with contextlib.ExitStack() as stack:
        for data in (b"", hello[: len(hello) // 2], hello):
            for _ in range(STALLED):
                stack.enter_context(dial(proxy)).sendall(data)
        for kind in KINDS:
            for _ in range(STALLED):
                plain = stack.enter_context(dial(proxy))
                stack.enter_context(context.wrap_socket(plain, server_hostname=host_of(kind)))
        # Edge takes connections in turn: it has met those above when this is done.
        handshake(proxy, site, "localhost")
        yield


def phases(proxy: Proxy, site: Site, valve: Valve) -> Iterator[Phase]:
    """Bring the proxy from phase to phase; yields the name of each and the roles that must be there."""
    valve.wait_for_one()
    yield "asking", {"supervisor", "unlock", "guard"}
    valve.open()
    proxy.wait_for_event("serving")
    yield "serving", SERVING
    work(proxy, site, HANDSHAKES, REQUESTS)
    yield "idle after work", SERVING
    with stalled_connections(proxy, site):
        yield "open and stalled handshakes", SERVING
    assert proxy.command("reload").returncode == 0
    work(proxy, site, 5, 5)
    yield "after a reload", SERVING
    with pytest.raises(ssl.SSLError), dial(proxy) as plain:
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
    for path, status in (("/psp/v2/x", 403), ("/psp/v1/%2e%2e/x", 400)):
        assert proxy.get(path, ca=site.authority.path)[0] == status
    yield "after refusals", SERVING
    for role in ("edge", "egress"):
        before = proxy.pid(role)
        os.kill(before, signal.SIGABRT)
        eventually("restart", lambda role=role, before=before: proxy.pid(role) != before or None)
    work(proxy, site, 5, 5)
    yield "after crashes of edge and egress", SERVING
    assert proxy.command("relock").returncode == 0
    proxy.wait_for_event("relocked")
    yield "after relock", {"supervisor"}
    valve.shut()
    failures = sum(event["event"] == "failed" for event in proxy.events())
    proxy.command("unlock", "--reason", "again")
    proxy.wait_for_event("failed", count=failures + 1)
    yield "after a failed unlock", {"supervisor"}
    valve.open()
    proxy.command("unlock", "--reason", "again")
    proxy.wait_for_event("serving", count=2)
    work(proxy, site, 5, 5)
    yield "unlocked again", SERVING
    os.kill(proxy.pid("guard"), signal.SIGABRT)
    proxy.wait_for_event("guard died")
    proxy.wait_for_event("serving", count=3)
    work(proxy, site, 5, 5)
    yield "after a crash of guard", SERVING


def needles() -> list[str]:
    keys = [value for kind in KINDS for value in ("--key", f"{kind}={kind}.key")]
    return [*keys, "--secret-file", "token"]


def scrape(site: Site, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and report: 0 no hit, 1 hits; what could not be scanned fails."""
    result = subprocess.run(
        [sys.executable, str(SCRAPE), *needles(), "--json", "-", *arguments],
        capture_output=True,
        cwd=site.folder,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr.decode()
    return result.returncode, json.loads(result.stdout)


MARKS = {
    "unlatch-guard": "guard",
    "role edge": "edge",
    "role egress": "egress",
    "bootstrap.unlock": "unlock",
    "serve -c": "supervisor",
}


def roles(report: dict[str, Any]) -> list[str]:
    """What each scanned process is, by its command line."""
    lines = [Path(f"/proc/{process['pid']}/cmdline").read_text() for process in report["processes"]]
    return [next(MARKS[mark] for mark in MARKS if mark in line.replace("\0", " ")) for line in lines]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("host", HOSTS)
def test_no_process_holds_a_key_or_token_in_any_phase(
    site: Site, tang: tuple[Tangd, Valve], tmp_path: Path, host: str
) -> None:
    valve = tang[1]
    valve.hold()
    pattern = Path("/proc/sys/kernel/core_pattern")
    before = pattern.read_text()
    pattern.write_text(f"{tmp_path}/core.%p")
    try:
        with Proxy(site.folder, site.config, name=host.replace(" ", "-"), through=HOSTS[host]) as proxy:
            for phase, expected in phases(proxy, site, valve):
                code, report = scrape(site, "--tree", str(proxy.process.pid), *UNREADABLE)
                LOG.info("%s, %s: %s", host, phase, table_row(report))

                assert code == 0, f"{phase}: {json.dumps(report['summary'])}"
                assert expected <= set(roles(report)), phase
        cores = [path.name for path in tmp_path.iterdir()]
    finally:
        pattern.write_text(before)

    assert cores == [], "a crash left a core"


def table_row(report: dict[str, Any]) -> str:
    """How many hits each process had."""
    counts = [len(process["hits"]) for process in report["processes"]]
    return ", ".join(f"{role} {count}" for role, count in zip(roles(report), counts, strict=True))


@contextlib.contextmanager
def saturated(*asking: Callable[[], object]) -> Iterator[None]:
    """A thread for each, asking without a pause."""
    done = threading.Event()
    finished: list[bool] = []

    def ask(one: Callable[[], object]) -> None:
        while not done.is_set():
            one()
        finished.append(True)

    threads = [threading.Thread(target=ask, args=(one,)) for one in asking]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(finished) == len(threads), "a thread failed"


@pytest.mark.timeout(600)
def test_processes_frozen_at_work_hold_next_to_nothing(site: Site, tang: tuple[Tangd, Valve]) -> None:
    """Where every page can be read: a token is whole in egress for one request, an RSA key in guard for one signature."""
    tang[1].open()
    with Proxy(site.folder, site.config, name="frozen", through=WITHOUT_SECRET_MEMORY) as proxy:
        proxy.wait_for_event("serving")

        def handshakes() -> None:
            for kind in KINDS:
                handshake(proxy, site, host_of(kind))

        def request() -> None:
            assert proxy.get("/psp/v1/x", ca=site.authority.path)[0] == 200

        shares = {}
        with saturated(handshakes, request):
            for role in ("supervisor", "edge", "egress", "guard"):
                pid = proxy.process.pid if role == "supervisor" else proxy.pid(role)
                frozen = ("--freeze", "--under-load", str(SAMPLES), "--interval", "0.01")
                _, report = scrape(site, "--pid", str(pid), *frozen)
                per = report["under_load"]["per_needle"]
                shares[role] = {name: found["with_hit"] for name, found in per.items() if found["with_hit"]}
    LOG.info("frozen samples with a hit, of %d: %s", SAMPLES, shares)

    assert shares["supervisor"] == {}
    assert shares["edge"] == {}
    assert set(shares["egress"]) <= {"token"}
    assert shares["egress"].get("token", 0) <= SAMPLES // 20
    assert set(shares["guard"]) <= {"rsa", "token"}


def test_same_scan_finds_all_of_them_in_an_ordinary_server(site: Site) -> None:
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

    assert code == 1
    assert set(report["summary"]) >= {*KINDS, "token"}


def test_token_of_the_test_is_what_the_scan_looks_for(site: Site, tang: tuple[Tangd, Valve]) -> None:
    tang[1].open()
    with Proxy(site.folder, site.config, name="control") as proxy:
        proxy.wait_for_event("serving")
        proxy.get("/psp/v1/x", ca=site.authority.path)

    assert (site.folder / "token").read_text() == TOKEN
    assert site.psp.seen[-1] == ("/v1/x", f"Bearer {TOKEN}")
