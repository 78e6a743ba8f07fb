"""Keys that sign slowly: nobody else waits for them, they are bounded, and each way out ends in order."""

from __future__ import annotations

import contextlib
import socket
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.edge_bench import Bench
from support.edge_process import Program, listening_sockets
from support.edge_signer import Slow
from support.edge_upstream import Upstream

NAMES = [("p256", ["pay.example"]), ("p256", ["slow.example"]), ("p256", ["other.example"])]
SLOW = "slow.example"
ASK = "GET / HTTP/1.1\r\nHost: pay.example\r\n\r\n"
BOTH = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@contextlib.contextmanager
def bench(slow: Slow, *, keys: tuple[int, ...] = (2,), threads: int = 4, bound: int = 16) -> Iterator[Bench]:
    with (
        Upstream() as app,
        Bench(
            servers={"app": [app.address]},
            certificates=NAMES,
            slow=keys,
            slow_threads=threads,
            limits={"slow_signatures": bound},
        ) as one,
    ):
        one.signer.slow[2] = slow
        yield one


def median(count: int, action: Callable[[], object]) -> float:
    """Seconds of one, in the median."""
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def start_hello(one: Bench, name: str = SLOW) -> socket.socket:
    """A client that has said hello and waits."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = one.context().wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    raw = socket.create_connection(one.address, timeout=30)
    raw.sendall(outgoing.read())
    return raw


def wait_for(one: Bench, field: str, count: int) -> None:
    """Until `status` tells so of the slow keys."""
    deadline = time.monotonic() + 20
    while one.program.status()["slow"][field] != count:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("version", BOTH)
def test_slow_key_serves_both_versions(version: ssl.TLSVersion) -> None:
    with bench(Slow()) as one:
        context = one.context()
        context.minimum_version = context.maximum_version = version
        with one.connect(SLOW, context=context) as client:
            assert client.ask(ASK).status == 200

        status = one.program.status()
        assert (status["handshakes"], status["signatures"], status["handshakes_failed"]) == (1, 1, 0)
        assert list(status["keys"]) == ["2"]


def test_second_hello_is_signed_too() -> None:
    with bench(Slow()) as one:
        # Edge has no P-521 and asks for another hello.
        line = f"openssl s_client -connect 127.0.0.1:{one.address[1]} -servername {SLOW} -msg"
        done = subprocess.run(
            [*line.split(), "-groups", "P-521:P-256", "-CAfile", one.authority.path, "-verify_return_error"],
            input=b"",
            capture_output=True,
            check=True,
        )
        assert done.stdout.count(b"ClientHello") == 2
        assert one.program.status()["keys"]["2"]["signatures"] == 1


def test_hello_in_pieces_is_signed_too() -> None:
    with bench(Slow()) as one:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = one.context().wrap_bio(incoming, outgoing, server_hostname=SLOW)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        with socket.create_connection(one.address, timeout=30) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in outgoing.read():
                raw.sendall(bytes([byte]))
            while True:
                incoming.write(raw.recv(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
        assert one.program.status()["keys"]["2"]["signatures"] == 1


def test_others_do_not_wait_for_a_slow_key() -> None:
    with bench(Slow(seconds=0.5)) as one, one.connect() as kept:
        quiet = median(15, lambda: one.connect().tls.close())
        asked = median(15, lambda: kept.ask(ASK))
        waiting = [start_hello(one) for _ in range(12)]
        one.signer.slow[2].wait_until_asked(4)
        busy = median(15, lambda: one.connect().tls.close())
        busy_asked = median(15, lambda: kept.ask(ASK))
        assert one.program.status()["slow"]["in_flight"] > 0
        for raw in waiting:
            assert raw.recv(1)
            raw.close()

        assert busy < quiet * 5 + 0.05
        assert busy_asked < asked * 5 + 0.05


def test_at_most_the_bound_is_in_flight() -> None:
    slow = Slow(seconds=0.05)
    with bench(slow, threads=4, bound=3) as one:
        with ThreadPoolExecutor(8) as pool:
            for client in pool.map(lambda _: one.connect(SLOW), range(12)):
                client.tls.close()

        status = one.program.status()
        assert (slow.most, status["slow"]["most_in_flight"], status["slow"]["bound"]) == (3, 3, 3)
        assert status["keys"]["2"]["signatures"] == 12
        assert status["keys"]["2"]["p50_us"] >= 50_000


def test_bound_changes_by_reload_and_sockets_do_not() -> None:
    with bench(Slow(), threads=2) as one:
        assert one.program.reload(one.config | {"limits": {"slow_signatures": 1}}) == {"event": "reloaded"}
        assert one.program.status()["slow"]["bound"] == 1
        refused = one.program.reload(one.config | {"guard_slow": one.config["guard_slow"][:1]})
        assert refused["event"] == "refused"


def test_over_the_queue_clients_are_refused_at_once() -> None:
    release = threading.Event()
    with bench(Slow(release=release), threads=1) as one:
        waiting = [start_hello(one) for _ in range(257)]
        wait_for(one, "waiting", 256)
        with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
            one.connect(SLOW)
        assert one.get().status == 200
        assert one.program.status()["slow_refused"] == 1
        for raw in waiting:
            raw.close()
        wait_for(one, "waiting", 0)
        release.set()


def test_client_that_leaves_gives_up_its_place() -> None:
    release = threading.Event()
    with bench(Slow(release=release), threads=1) as one:
        first = start_hello(one)
        one.signer.slow[2].wait_until_asked(1)
        second = start_hello(one)
        wait_for(one, "waiting", 1)
        second.close()
        wait_for(one, "waiting", 0)
        first.close()
        release.set()
        wait_for(one, "in_flight", 0)
        with one.connect(SLOW) as client:
            assert client.ask(ASK).status == 200
        assert one.signer.slow[2].asked == 2


def test_drain_lets_a_slow_handshake_end() -> None:
    release = threading.Event()
    with bench(Slow(release=release)) as one:
        with ThreadPoolExecutor(1) as pool:
            client = pool.submit(one.connect, SLOW)
            one.signer.slow[2].wait_until_asked(1)
            one.program.order({"do": "drain", "seconds": 20})
            release.set()
            client.result().tls.close()
        assert one.program.event() == {"event": "drained"}
        assert one.program.process.wait(10) == 0


def test_drain_does_not_wait_for_ever() -> None:
    release = threading.Event()
    with bench(Slow(release=release)) as one:
        with start_hello(one):
            one.signer.slow[2].wait_until_asked(1)
            one.program.order({"do": "drain", "seconds": 0.2})
            assert one.program.event() == {"event": "drained"}
            assert one.program.process.wait(10) == 0
        release.set()


def test_key_that_never_answers_ends_in_an_alert_and_then_fails_at_once() -> None:
    with bench(Slow(never=True), keys=(2, 3)) as one:
        start = time.monotonic()
        with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
            one.connect(SLOW)
        first = time.monotonic() - start
        start = time.monotonic()
        with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
            one.connect(SLOW)
        second = time.monotonic() - start
        with one.connect("other.example") as client:
            assert client.ask(ASK).status == 200

        status = one.program.status()
        assert 2 < first < 6
        assert second < 0.9
        assert (status["guard_late"], status["keys"]["2"]["failed"]) == (2, 1)


def test_refusal_of_a_slow_key_ends_in_an_alert() -> None:
    with bench(Slow()) as one:
        one.signer.refusal = 9
        with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
            one.connect(SLOW)

        assert one.program.status()["guard_refused"] == 1


def test_new_guard_serves_slow_keys_again() -> None:
    with bench(Slow()) as one:
        one.signer.close()
        with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
            one.connect(SLOW)
        assert one.program.status()["guard_gone"] == 1
        one.replace_guard()
        with one.connect(SLOW) as client:
            assert client.ask(ASK).status == 200


def test_resumed_session_asks_no_slow_key() -> None:
    with bench(Slow()) as one:
        context = one.context()
        with one.connect(SLOW, context=context) as first:
            first.ask(ASK)
            session = first.tls.session
        with one.connect(SLOW, context=context, session=session) as second:
            assert second.tls.session_reused
        assert one.signer.slow[2].asked == 1


def test_slow_certificate_needs_sockets() -> None:
    with bench(Slow()) as one:
        config = one.config | {"guard_slow": []}
    sockets = listening_sockets(1)
    config["listeners"][0]["sockets"] = [sockets[0].fileno()]
    config["guard"] = []
    program = Program.start(config, sockets, ready=False)

    assert program.process.wait(10) == 21
    assert "guard_slow" in program.stop()
