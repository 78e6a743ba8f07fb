"""Guard holds nothing whole at rest, in no phase of its life: seen from outside, and from inside without its filter."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.guard_client import (
    HEADER,
    SECONDS,
    ControlFault,
    GuardClient,
    RefusedByGuard,
    bundle,
    certificate_verify,
    running_guard,
    seal,
    stream_bytes,
    token_secret,
)
from support.guard_site import GuardSite, scrape, variant_program

pytestmark = pytest.mark.memory

HANDSHAKES = 200
REQUESTS = 200
OUTSIDE = ()
INSIDE = ("--inject",)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> GuardSite:
    if os.getuid() != 0:
        pytest.fail("reading the memory of a non-dumpable process needs root")
    return GuardSite(tmp_path_factory.mktemp("site"))


def variant(*names: str) -> contextlib.AbstractContextManager[GuardClient]:
    """A guard that misbehaves in these ways."""
    environment = {"UNLATCH_TEST_VARIANT": ",".join(names)}
    return running_guard(program=variant_program(), environment=environment, may_fail=True)


@contextlib.contextmanager
def stalled_load(site: GuardSite, guard: GuardClient) -> Iterator[None]:
    """Unlock has sent the content key and half of the file."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with theirs:
            request = HEADER.pack(1, 0x40, 0, 0x7FFFFFFF, 2) + b"{}"
            socket.send_fds(guard.control, [request], [theirs.fileno()])
        data = stream_bytes(site.sealed, site.content_key)
        ours.sendall(data[: len(data) // 2])
        yield
    assert guard.control.recv(65536)[1] == 0xFF


def phases(site: GuardSite, guard: GuardClient) -> Iterator[str]:
    """Bring guard from phase to phase; each name is yielded while guard is in it."""
    yield "start"
    with stalled_load(site, guard):
        # The content key has to be there while the file comes in; nothing else is.
        yield "during unlock, content key apart"
    yield "after an unlock that broke off"
    site.unlock(guard)
    yield "unlocked"
    edge, egress = guard.edge(), guard.egress()
    site.handshakes(edge, HANDSHAKES)
    site.requests(egress, REQUESTS)
    site.ticket_keys(guard)
    for name in site.keys:
        guard.csr(name)
    yield "idle after work"
    stalled = guard.edge()
    stalled.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            payload = b"\x04\x03" + certificate_verify()
            stalled.socket.send(HEADER.pack(1, 1, 1, 9, len(payload)) + payload)
    yield "with stalled handshakes"
    guard.configure(site.configuration)
    site.handshakes(edge, 5)
    site.ticket_keys(guard)
    yield "after a reload"
    for _ in range(3):
        guard.reshare()
    site.handshakes(edge, 5)
    yield "after changes of the parts"
    other = seal(bundle({"t": token_secret("t" * 20)}, set_id=b"o" * 32), site.content_key)
    for sealed, key in ((other, site.content_key), (site.sealed, os.urandom(32)), (b"x", site.content_key)):
        with pytest.raises(ControlFault):
            guard.load(sealed, key)
    yield "after failed unlocks"
    with pytest.raises(ControlFault):
        guard.configure(
            site.configuration | {"certificates": [site.configuration["certificates"][0] | {"key": "x"}]}
        )
    for message in (b"no handshake", b" " * 130):
        with pytest.raises(RefusedByGuard):
            edge.sign(1, 0x0403, message)
    with pytest.raises(RefusedByGuard):
        egress.token(1, upstream="https://elsewhere.example:443")
    yield "after refusals"
    guard.drop()
    stalled.socket.close()
    yield "after relock"
    site.unlock(guard)
    yield "unlocked again"
    edge.socket.close()
    egress.socket.close()


def assert_clean(site: GuardSite, guard: GuardClient, phase: str, look: tuple[str, ...]) -> None:
    finding = site.scan(guard, *look)
    allowed = {"content"} if "content key apart" in phase else set()

    assert finding.found <= allowed, f"{phase}: {finding.places}"
    # A mapping that was not read is not clean. Guard pages below stacks hold nothing; kernel pages are no memory.
    (process,) = finding.report["processes"]
    reasons = {one["why"] for one in process["unreadable"] if not one.get("perms", "").startswith("---")}
    assert reasons <= {"kernel special"} | ({"memfd_secret"} if look == OUTSIDE else set()), phase
    assert process["scanned"] > 1_000_000


def test_nothing_is_whole_seen_from_outside(site: GuardSite) -> None:
    with running_guard() as guard:
        for phase in phases(site, guard):
            assert_clean(site, guard, phase, OUTSIDE)


def test_nothing_is_whole_seen_from_inside(site: GuardSite) -> None:
    with variant("unconfined") as guard:
        for phase in phases(site, guard):
            assert_clean(site, guard, phase, INSIDE)
            assert guard.process.poll() is None


def test_core_of_the_real_guard_holds_nothing_whole(site: GuardSite, tmp_path: Path) -> None:
    with running_guard() as guard:
        site.unlock(guard)
        edge = guard.edge()
        site.handshakes(edge, 20)
        subprocess.run(
            ["gcore", "-a", "-o", str(tmp_path / "core"), str(guard.process.pid)],
            check=True,
            capture_output=True,
        )
        edge.socket.close()
    core = tmp_path / f"core.{guard.process.pid}"
    needles = [value for name in site.keys for value in ("--key", f"{name}={name}.key")]

    assert core.stat().st_size > 1_000_000
    assert scrape(site.folder, *needles, "--core", str(core)).code == 0


def test_core_of_a_guard_that_leaks_shows_the_key(site: GuardSite, tmp_path: Path) -> None:
    with variant("leak-pkcs8", "dumpable") as guard:
        site.unlock(guard)
        subprocess.run(
            ["gcore", "-o", str(tmp_path / "core"), str(guard.process.pid)], check=True, capture_output=True
        )
    core = tmp_path / f"core.{guard.process.pid}"
    needles = [value for name in site.keys for value in ("--key", f"{name}={name}.key")]

    assert scrape(site.folder, *needles, "--core", str(core)).found == set(site.keys)


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGILL])
def test_crash_leaves_no_core(site: GuardSite, tmp_path: Path, number: signal.Signals) -> None:
    """The control is a program that crashes in the same place and does leave one."""
    pattern = Path("/proc/sys/kernel/core_pattern")
    before = pattern.read_text()
    pattern.write_text(f"{tmp_path}/core.%p")
    try:
        with running_guard(may_fail=True) as guard:
            site.unlock(guard)
            guard.process.send_signal(number)
            assert guard.process.wait(SECONDS) == -number
        control = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import os, resource as r; r.setrlimit(r.RLIMIT_CORE, (1 << 30,) * 2); os.abort()",
            ]
        )
        control.wait(SECONDS)
    finally:
        pattern.write_text(before)

    assert [path.name for path in tmp_path.iterdir()] == [f"core.{control.pid}"]


@pytest.mark.parametrize(
    ("leak", "expected"),
    [
        ("leak-pkcs8", {"p256", "rsa", "ed25519", "p384"}),
        ("leak-joined", {"p256", "p384", "ed25519"}),
        ("leak-token", {"rsa", "psp", "crm"}),
    ],
)
def test_gate_notices_a_guard_that_leaks(site: GuardSite, leak: str, expected: set[str]) -> None:
    """Positive controls: each kind of secret, planted by guard itself, is found by the same scan."""
    with variant(leak) as guard:
        site.unlock(guard)
        edge, egress = guard.edge(), guard.egress()
        site.handshakes(edge, 1)
        site.requests(egress, 1)

        assert site.scan(guard).found >= expected

        edge.socket.close()
        egress.socket.close()


def test_same_scan_finds_the_tickets_chain_where_it_lies(site: GuardSite) -> None:
    """This process foretold it, and holds it as anybody would."""
    numbers = [f"--number={name}={value.hex()}" for name, value in site.tickets.items()]

    assert scrape(site.folder, *numbers, "--pid", str(os.getpid())).found == set(site.tickets)
