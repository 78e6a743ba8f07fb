"""HTTP/1.1 through edge: what goes on, what is refused, what survives an upstream that misbehaves."""

from __future__ import annotations

import hashlib
import json
import random
import threading

import pytest
from support.edge_bench import Bench
from support.edge_upstream import OK, Connection, Received, Upstream, refusing_address

HOST = "Host: pay.example\r\n"
GET = f"GET / HTTP/1.1\r\n{HOST}\r\n"


def answering(*answers: bytes) -> Upstream:
    """An upstream that gives these answers in turn, and the last one to every later request, and closes then."""
    waiting = list(answers)

    def serve(connection: Connection, _: Received) -> bool:
        connection.send(waiting[0])
        is_last = len(waiting) == 1
        if not is_last:
            waiting.pop(0)
        return not is_last

    return Upstream(serve)


def test_request_goes_on_with_the_clients_address_and_nothing_else() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        with bench.connect() as client:
            reply = client.ask(
                f"GET /a%2Fb?q=1 HTTP/1.1\r\n{HOST}Accept: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"
            )

        assert (reply.status, reply.body, reply.closed) == (200, b"ok", False)
        assert app.requests[0].head.decode() == (
            "GET /a%2Fb?q=1 HTTP/1.1\r\nHost: pay.example\r\nAccept: x\r\nX-Forwarded-For: 127.0.0.1\r\n"
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: pay.example\r\n"
            "Forwarded: for=127.0.0.1;host=pay.example;proto=https\r\n\r\n"
        )


def test_fields_of_one_connection_stay_there() -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"
    fields = "Connection: X-Own, Upgrade\r\nX-Own: 1\r\nUpgrade: websocket\r\nTE: trailers\r\nTrailer: A\r\nProxy: http://evil\r\n"
    with answering(answer) as app, Bench(servers={"app": [app.address]}) as bench:
        with bench.connect() as client:
            reply = client.ask(f"GET / HTTP/1.1\r\n{HOST}{fields}\r\n")

        names = [line.split(":")[0] for line in app.requests[0].head.decode().split("\r\n")[1:-2]]
        assert names == ["Host", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"]
        assert reply.head == "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "request_head",
    [
        f"POST / HTTP/1.1\r\n{HOST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
        f"POST / HTTP/1.1\r\n{HOST}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        f"POST / HTTP/1.1\r\n{HOST}Content-Length: 5, 5\r\n\r\nhello",
        f"POST / HTTP/1.1\r\n{HOST}Content-Length: +5\r\n\r\nhello",
        f"POST / HTTP/1.1\r\n{HOST}Content-Length : 5\r\n\r\nhello",
        f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"POST / HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"GET / HTTP/1.1\r\n{HOST}A: b\r\n folded\r\n\r\n",
        f"GET / HTTP/1.1\n{HOST}\r\n",
        f"GET / HTTP/1.1\r\n{HOST}A: b\n\r\n",
        f"GET / HTTP/1.1\r\n{HOST}A: b\rC: d\r\n\r\n",
        f"GET / HTTP/1.1\r\n{HOST}A\x00: b\r\n\r\n",
        f"GET / HTTP/1.1\r\n{HOST}{HOST}\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        f"GET http://other.example/ HTTP/1.1\r\n{HOST}\r\n",
        f"GET /a#b HTTP/1.1\r\n{HOST}\r\n",
        f"GET /a b HTTP/1.1\r\n{HOST}\r\n",
        f"GET  / HTTP/1.1\r\n{HOST}\r\n",
        f"GET / HTTP/1.1\r\n{HOST}Connection: {'a,' * 400}\r\n\r\n",
    ],
)
def test_ambiguous_request_is_refused_and_nothing_reaches_the_upstream(request_head: str) -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        with bench.connect() as client:
            # A second request behind it must not be answered either.
            reply = client.ask(request_head + GET)

            assert (reply.status, reply.closed, client.rest()) == (400, True, b"")
        assert app.requests == []


@pytest.mark.parametrize(
    ("line", "fields", "status"),
    [
        ("CONNECT pay.example:443 HTTP/1.1", "", 405),
        ("TRACE / HTTP/1.1", "", 405),
        ("GET / HTTP/1.2", "", 505),
        ("GET / HTTP/3.0", "", 505),
        ("POST / HTTP/1.1", "Expect: miracles\r\n", 417),
    ],
)
def test_what_is_not_proxied_gets_its_status(line: str, fields: str, status: int) -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        with bench.connect() as client:
            assert client.ask(f"{line}\r\n{HOST}{fields}\r\n").status == status
        assert app.requests == []


@pytest.mark.parametrize(
    "body", ["5\nhello", "5 \r\nhello\r\n", "x\r\n", "5\r\nhello!", "0\r\n bad: x\r\n\r\n"]
)
def test_bad_chunk_is_refused(body: str) -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench, bench.connect() as client:
        reply = client.ask(f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{body}")

        assert (reply.status, reply.closed) == (400, True)


def test_absolute_target_of_the_same_host_goes_on_in_origin_form() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}, access_log=True) as bench:
        with bench.connect() as client:
            for target in ("https://pay.example", "http://pay.example/x"):
                assert client.ask(f"GET {target} HTTP/1.1\r\n{HOST}\r\n").status == 200
        text = bench.program.stop()

        assert [one.line for one in app.requests] == ["GET / HTTP/1.1", "GET /x HTTP/1.1"]
        assert [json.loads(line)["path"] for line in text.splitlines()] == ["/", "/x"]


def test_pipelined_requests_are_answered_in_order_over_one_upstream_connection() -> None:
    def serve(connection: Connection, request: Received) -> None:
        path = request.line.split(" ")[1].encode()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    with Upstream(serve) as app, Bench(servers={"app": [app.address]}) as bench, bench.connect() as client:
        client.send("\r\n\r\n" + "".join(f"GET /{n} HTTP/1.1\r\n{HOST}\r\n" for n in range(5)))

        assert [client.reply().body for _ in range(5)] == [b"/0", b"/1", b"/2", b"/3", b"/4"]
        assert app.connections == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_go_both_ways_byte_for_byte(chunked: bool) -> None:
    content = random.Random(1).randbytes(3_000_000)

    def serve(connection: Connection, request: Received) -> None:
        digest = hashlib.sha256(request.body).hexdigest().encode()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + digest + b"\r\n")
        for start in range(0, len(request.body), 100_000):
            piece = request.body[start : start + 100_000]
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.send(b"0\r\nX-Trailer: dropped\r\n\r\n")

    with Upstream(serve) as app, Bench(servers={"app": [app.address]}) as bench, bench.connect() as client:
        if chunked:
            pieces = [content[start : start + 70_001] for start in range(0, len(content), 70_001)]
            body = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(one), one) for one in pieces) + b"0\r\nT: v\r\n\r\n"
            client.send(f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n".encode() + body)
        else:
            client.send(f"POST / HTTP/1.1\r\n{HOST}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        reply = client.reply()

        assert reply.body[:64] == hashlib.sha256(content).hexdigest().encode()
        assert reply.body[64:] == content
        assert b"ext" not in app.requests[0].wire[:200]
        assert client.ask(GET).status == 200


def test_expectation_is_met_by_edge() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench, bench.connect() as client:
        assert (
            client.ask(f"POST / HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n").status
            == 100
        )
        assert client.ask("hi").status == 200
        assert (app.requests[0].body, app.requests[0].values("expect")) == (b"hi", [])


@pytest.mark.parametrize(
    ("method", "answer", "status"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", 200),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 103),
    ],
)
def test_response_without_a_body_ends_with_its_head(method: str, answer: bytes, status: int) -> None:
    with (
        answering(answer, OK, OK) as app,
        Bench(servers={"app": [app.address]}) as bench,
        bench.connect() as client,
    ):
        reply = client.ask(f"{method} / HTTP/1.1\r\n{HOST}\r\n", to_head=method == "HEAD")
        if status == 103:
            assert client.reply().status == 204

        assert (reply.status, reply.values("content-length") == ["5"]) == (status, status == 304)
        assert client.ask(GET).body == b"ok"
        assert app.connections == 1


def test_end_by_close_is_told_to_new_clients_in_chunks_and_to_old_ones_by_closing() -> None:
    def serve(connection: Connection, _: Received) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nfirst ")
        connection.send(b"second")
        return False

    with Upstream(serve) as app, Bench(servers={"app": [app.address]}) as bench:
        with bench.connect() as client:
            for _ in range(2):
                reply = client.ask(GET)
                assert (reply.body, reply.closed) == (b"first second", False)
        with bench.connect() as client:
            reply = client.ask(f"GET / HTTP/1.0\r\n{HOST}Connection: keep-alive\r\n\r\n")
            assert (reply.body, reply.closed) == (b"first second", True)


def test_old_client_gets_chunks_decoded() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with (
        answering(answer) as app,
        Bench(servers={"app": [app.address]}) as bench,
        bench.connect() as client,
    ):
        reply = client.ask(f"GET / HTTP/1.0\r\n{HOST}\r\n")

        assert (reply.body, reply.values("transfer-encoding")) == (b"abc", [])


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 000 Zero\r\n\r\n" + b"x" * 200_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nz\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200",
        b"",
    ],
)
def test_answer_that_is_not_http_is_a_502(answer: bytes) -> None:
    with answering(answer) as app, Bench(servers={"app": [app.address]}) as bench, bench.connect() as client:
        reply = client.ask(GET)
        assert (reply.status, reply.closed) == (502, False)

        # The client's connection and the process go on.
        assert client.ask(GET).status == 502
        assert bench.program.reaches("upstream_failed", 2)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ],
)
def test_response_cut_short_breaks_the_clients_connection(answer: bytes) -> None:
    with (
        answering(answer) as app,
        Bench(servers={"app": [app.address]}) as bench,
        bench.connect() as client,
        pytest.raises((EOFError, ValueError)),
    ):
        client.ask(GET)


def test_surplus_of_an_answer_never_answers_the_next_request() -> None:
    with (
        answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", OK) as app,
        Bench(servers={"app": [app.address]}) as bench,
        bench.connect() as client,
    ):
        assert [client.ask(GET).body for _ in range(2)] == [b"ok", b"ok"]
        assert app.connections == 2


def test_request_on_a_connection_that_the_upstream_closed_is_repeated_if_that_is_harmless() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench, bench.connect() as client:
        assert client.ask(GET).status == 200
        app.close_connections()
        assert client.ask(GET).status == 200
        assert app.connections == 2

    closing = Upstream()
    closing.serve = lambda connection, _: connection.send(OK) if len(closing.requests) == 1 else False
    with closing as app, Bench(servers={"app": [app.address]}) as bench, bench.connect() as client:
        assert client.ask(GET).status == 200
        reply = client.ask(f"POST / HTTP/1.1\r\n{HOST}Content-Length: 2\r\n\r\nhi")

        assert (reply.status, len(app.requests)) == (502, 2)
        assert bench.program.status()["requests_repeated"] == 0


def test_servers_take_turns_and_a_dead_one_is_left_out() -> None:
    def named(name: bytes) -> Upstream:
        return Upstream(lambda one, _: one.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name))

    with (
        named(b"a") as first,
        named(b"b") as second,
        refusing_address() as dead,
        Bench(servers={"app": [first.address, second.address, dead]}) as bench,
        bench.connect() as client,
    ):
        bodies = [client.ask(GET).body for _ in range(6)]

        assert sorted(bodies)[0] == b"a"
        assert sorted(bodies)[-1] == b"b"


def test_no_server_is_a_502_and_the_connection_stays() -> None:
    with refusing_address() as dead, Bench(servers={"app": [dead]}) as bench, bench.connect() as client:
        replies = [client.ask(GET) for _ in range(2)]

        assert [(one.status, one.closed) for one in replies] == [(502, False)] * 2


def test_early_answer_reaches_a_client_that_still_sends() -> None:
    release = threading.Event()

    def refuse(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        release.wait(30)

    class Early(Upstream):
        def _talk(self, connection: Connection) -> None:
            connection._until(b"\r\n\r\n")
            refuse(connection)

    with Early() as app, Bench(servers={"app": [app.address]}) as bench, bench.connect() as client:
        client.send(f"POST / HTTP/1.1\r\n{HOST}Content-Length: 100000000\r\n\r\nbegin")
        reply = client.reply()
        release.set()

        assert (reply.status, reply.body, reply.closed) == (413, b"no", True)


def test_route_is_the_first_that_matches() -> None:
    routes = [
        {"host": "api.example", "path": "/v1/*", "upstream": "first", "strip_prefix": "/v1"},
        {"host": "*.example", "upstream": "second"},
    ]
    with Upstream() as first, Upstream() as second:
        servers = {"first": [first.address], "second": [second.address]}
        with Bench(routes=routes, servers=servers) as bench, bench.connect() as client:
            for host, path in [
                ("API.example:8443", "/v1/x?y"),
                ("api.example", "/v2"),
                ("www.example", "/v1/z"),
            ]:
                assert client.ask(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").status == 200
            missing = client.ask("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")

        assert (missing.status, missing.closed) == (404, False)
        assert [one.line for one in first.requests] == ["GET /x?y HTTP/1.1"]
        assert [one.line for one in second.requests] == ["GET /v2 HTTP/1.1", "GET /v1/z HTTP/1.1"]


def test_access_line_tells_the_request_but_no_query_field_or_body() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}, access_log=True) as bench:
        with bench.connect() as client:
            client.ask(
                f"POST /p?secret=1 HTTP/1.1\r\n{HOST}Cookie: secret\r\nContent-Length: 6\r\n\r\nsecret"
            )
            client.ask(f"GET / HTTP/1.1\r\n{HOST}{HOST}\r\n")
        text = bench.program.stop()
        first, second = map(json.loads, text.splitlines())

        assert "secret" not in text
        assert (first["method"], first["host"], first["path"], first["status"]) == (
            "POST",
            "pay.example",
            "/p",
            200,
        )
        assert (first["client"], first["sni"], first["tls"], first["upstream"]) == (
            "127.0.0.1",
            "pay.example",
            "1.3",
            app.address,
        )
        assert (second["status"], second["error"]) == (400, "two Host fields")
