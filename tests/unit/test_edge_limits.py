"""Clients and upstreams that are too slow, too many or too large; the end of the program."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from support.edge_bench import Bench
from support.edge_upstream import OK, Connection, Received, Upstream

HOST = "Host: pay.example\r\n"
GET = f"GET / HTTP/1.1\r\n{HOST}\r\n"


class Held:
    """An upstream's `serve` that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.release = threading.Event()

    def __call__(self, connection: Connection, _: Received) -> None:
        self.asked.set()
        assert self.release.wait(30)
        connection.send(OK)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"GET / HTTP/1.1\r\n{HOST}A: {'x' * 400}\r\n\r\n", 200),
        (f"GET / HTTP/1.1\r\n{HOST}A: {'x' * 600}\r\n\r\n", 431),
        (f"GET / HTTP/1.1\r\n{HOST}A: {'x' * 600}", 431),
        (f"GET /{'x' * 600} HTTP/1.1\r\n{HOST}\r\n", 431),
        (f"GET / HTTP/1.1\r\n{HOST}" + "A: b\r\n" * 4 + "\r\n", 200),
        (f"GET / HTTP/1.1\r\n{HOST}" + "A: b\r\n" * 5 + "\r\n", 431),
    ],
)
def test_heads_are_bounded(head: str, status: int) -> None:
    with (
        Upstream() as app,
        Bench(servers={"app": [app.address]}, limits={"header_bytes": 512, "headers": 5}) as bench,
        bench.connect() as client,
    ):
        reply = client.ask(head)

        assert (reply.status, reply.closed) == (status, status == 431)


def test_connection_over_the_limit_waits_until_one_leaves() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}, limits={"connections": 2}) as bench:
        with bench.connect() as first, bench.connect():
            with socket.create_connection(bench.address, timeout=0.3) as waiting:
                waiting.sendall(b"\x16\x03\x01")
                with pytest.raises(TimeoutError):
                    waiting.recv(1)
            assert first.ask(GET).status == 200
        assert bench.get().status == 200


def test_silent_client_is_dropped_in_the_handshake() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}, timeouts={"handshake": 200}) as bench:
        for start in (b"", b"\x16\x03\x01\x00"):
            with socket.create_connection(bench.address, timeout=20) as raw:
                raw.sendall(start)
                assert raw.recv(10) == b""

        assert bench.program.reaches("handshakes_failed", 2)


def test_idle_client_is_closed_and_a_slow_head_is_a_408() -> None:
    timeouts = {"idle": 300, "header": 300}
    with Upstream() as app, Bench(servers={"app": [app.address]}, timeouts=timeouts) as bench:
        with bench.connect() as idle:
            assert idle.ask(GET).status == 200
            assert idle.rest() == b""
        with bench.connect() as slow:
            slow.send("GET / HTTP/1.1\r\nHost")
            reply = slow.reply()
            assert (reply.status, reply.closed, slow.rest()) == (408, True, b"")
    assert len(app.requests) == 1


def test_head_byte_by_byte_does_not_extend_its_time() -> None:
    with (
        Upstream() as app,
        Bench(servers={"app": [app.address]}, timeouts={"header": 300}) as bench,
        bench.connect() as client,
    ):
        started = time.monotonic()
        client.tls.settimeout(0.05)
        with contextlib.suppress(OSError):
            while time.monotonic() < started + 10:
                client.send("x")
                with contextlib.suppress(TimeoutError):
                    if client.tls.recv(100):
                        break

        assert time.monotonic() < started + 5


def test_body_that_stops_is_a_408() -> None:
    with (
        Upstream() as app,
        Bench(servers={"app": [app.address]}, timeouts={"body": 300}) as bench,
        bench.connect() as client,
    ):
        reply = client.ask(f"POST / HTTP/1.1\r\n{HOST}Content-Length: 10\r\n\r\nhello")

        assert (reply.status, reply.closed) == (408, True)


def test_upstream_that_does_not_answer_is_a_504() -> None:
    held = Held()
    with (
        Upstream(held) as app,
        Bench(servers={"app": [app.address]}, timeouts={"response": 300}) as bench,
        bench.connect() as client,
    ):
        assert client.ask(GET).status == 504
        held.release.set()
        # The late answer belongs to nobody.
        assert client.ask(GET).status == 200
        assert app.connections == 2


def test_upstream_that_stops_in_the_middle_breaks_off() -> None:
    def half(connection: Connection, _: Received) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    with (
        Upstream(half) as app,
        Bench(servers={"app": [app.address]}, timeouts={"body": 300}) as bench,
        bench.connect() as client,
        pytest.raises(EOFError),
    ):
        client.ask(GET)


def test_client_that_reads_slowly_is_served_and_one_that_stops_is_not() -> None:
    content = b"x" * 6_000_000

    def serve(connection: Connection, _: Received) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))

    with Upstream(serve) as app, Bench(servers={"app": [app.address]}, timeouts={"body": 600}) as bench:
        for pause, is_served in [(0.1, True), (3.0, False)]:
            with bench.connect() as client:
                client.tls.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                client.send(GET)
                pauses, seen = threading.Event(), b""
                for _ in range(16 if is_served else 1):
                    seen += client.exactly(300_000)
                    pauses.wait(pause)
                client.buffer = seen + client.buffer
                with contextlib.suppress(EOFError, ConnectionResetError):
                    assert client.reply().body == content
                    assert is_served
                    continue
                assert not is_served


def test_memory_does_not_grow_with_a_client_that_does_not_read() -> None:
    sent = threading.Event()

    def flood(connection: Connection, _: Received) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        connection.socket.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                connection.send(b"x" * 65536)
        sent.set()

    with Upstream(flood) as app, Bench(servers={"app": [app.address]}) as bench:
        before = resident_kb(bench)
        clients = [bench.connect() for _ in range(20)]
        for client in clients:
            client.send(GET)
        assert sent.wait(30)
        grown = resident_kb(bench) - before
        for client in clients:
            client.tls.close()

        assert grown < 20 * 400


def resident_kb(bench: Bench) -> int:
    text = Path(f"/proc/{bench.program.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS"))


def test_client_that_goes_away_frees_its_place() -> None:
    held = Held()
    with Upstream(held) as app, Bench(servers={"app": [app.address]}, timeouts={"response": 400}) as bench:
        with bench.connect() as client:
            client.send(GET)
            assert held.asked.wait(10)
        held.release.set()
        deadline = time.monotonic() + 10
        while (status := bench.program.status())["connections"]:
            assert time.monotonic() < deadline, status


@pytest.mark.parametrize("how", ["signal", "order", "orphan"])
def test_drain_ends_what_is_idle_and_finishes_what_is_under_way(how: str) -> None:
    held = Held()
    with (
        Upstream(held) as app,
        Bench(servers={"app": [app.address]}, workers=2) as bench,
        bench.connect() as idle,
        bench.connect() as busy,
    ):
        busy.send(GET)
        assert held.asked.wait(10)
        if how == "signal":
            bench.program.process.send_signal(signal.SIGTERM)
        elif how == "order":
            bench.program.order({"do": "drain", "seconds": 20})
        else:
            bench.program.control.shutdown(socket.SHUT_WR)
        assert idle.rest() == b""
        held.release.set()
        reply = busy.reply()

        assert (reply.body, reply.closed, busy.rest()) == (b"ok", True, b"")
        if how != "orphan":
            assert bench.program.event() == {"event": "drained"}
        assert bench.program.process.wait(20) == 0


def test_drain_takes_no_longer_than_ordered_and_no_processor() -> None:
    held = Held()
    with (
        Upstream(held) as app,
        Bench(servers={"app": [app.address]}, workers=2) as bench,
        bench.connect() as busy,
    ):
        busy.send(GET)
        assert held.asked.wait(10)
        before = processor_ticks(bench)
        bench.program.order({"do": "drain", "seconds": 1})
        # The other worker has ended by now: nobody may spin until this one has.
        assert bench.program.control.recv(1, socket.MSG_PEEK)
        spent = processor_ticks(bench) - before
        assert bench.program.event() == {"event": "drained"}
        held.release.set()
        assert bench.program.process.wait(20) == 0

    assert spent < 30


def test_socket_that_listens_late_is_served_and_costs_nothing() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}, listens=False) as bench:
        with pytest.raises(ConnectionRefusedError):
            bench.connect()
        bench.listening[0].listen()
        assert bench.get().status == 200
        before = processor_ticks(bench)
        with bench.connect() as client:
            # Half a second in which nothing happens.
            client.tls.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.tls.recv(1)
        assert processor_ticks(bench) - before < 15

        # Shut, as the supervisor does when guard is gone, and open again.
        bench.listening[0].shutdown(socket.SHUT_RD)
        with pytest.raises(ConnectionRefusedError):
            bench.connect()
        bench.listening[0].listen()
        assert bench.get().status == 200


def processor_ticks(bench: Bench) -> int:
    fields = Path(f"/proc/{bench.program.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_access_log_that_nobody_reads_stops_nobody() -> None:
    reader, writer = socket.socketpair()
    with (
        reader,
        Upstream() as app,
        Bench(servers={"app": [app.address]}, access_log=writer) as bench,
        bench.connect() as client,
    ):
        path = "/" + "x" * 20_000
        statuses = {client.ask(f"GET {path} HTTP/1.1\r\n{HOST}\r\n").status for _ in range(500)}

        assert statuses == {200}
        assert bench.program.status()["log_batches_dropped"] > 0


def test_orders_that_make_no_sense_are_refused() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        for order in (b"[]", b'{"do": "x"}', b'{"do": "reload"}', b'{"do": "guard"}', b"x" * 5000):
            bench.program.control.send(order)
            assert bench.program.event()["event"] == "refused"

        assert json.dumps(bench.program.status()["draining"]) == "false"
        assert bench.get().status == 200
