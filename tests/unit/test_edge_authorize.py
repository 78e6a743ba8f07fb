"""Requests whose headers guard computes: what egress tells guard, and what reaches the upstream."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.edge_egress import NAME, Injection, TlsIdentity
from support.edge_upstream import Connection, Received, Upstream

HOST = "Host: pay.example\r\n"
SIGNED = [("x-signature", "v1=0123456789abcdef"), ("x-time", "1700000000")]
LIMIT = 1000


@pytest.fixture
def identity(tmp_path: Path) -> TlsIdentity:
    return TlsIdentity(tmp_path, NAME)


@pytest.fixture
def psp(identity: TlsIdentity) -> Iterator[Upstream]:
    with Upstream(tls=identity.context) as upstream:
        yield upstream


def injection(psp: Upstream, identity: TlsIdentity, body: str, covers: str | None = None) -> Injection:
    return Injection(
        psp,
        identity.ca,
        header="X-Signature",
        scheme="raw",
        computed=SIGNED,
        wanted={"others": ["x-time"], "body": body, "covers": covers},
        limits={"signed_body_bytes": LIMIT},
    )


@pytest.fixture
def way(psp: Upstream, identity: TlsIdentity) -> Iterator[Injection]:
    with injection(psp, identity, "whole") as injected:
        yield injected


def send(way: Injection, request: str, body: bytes = b"") -> int:
    with way.bench.connect() as client:
        client.send(request.encode() + body)
        return client.reply().status


def post(length: int) -> str:
    return f"POST /psp/v1/x?a=b HTTP/1.1\r\n{HOST}Content-Length: {length}\r\n\r\n"


def test_computed_headers_are_written_last_and_copies_of_clients_removed(
    way: Injection, psp: Upstream
) -> None:
    head = (
        f"POST /psp/v1/x?a=b HTTP/1.1\r\n{HOST}x-time: 5\r\nX_Signature: mine\r\nX-SIGNATURE: mine\r\n"
        "Connection: X-Time\r\nX-Other: 1\r\nContent-Length: 5\r\n\r\n"
    )
    assert send(way, head, b"hello") == 200

    assert psp.requests[0].head.decode() == (
        f"POST /v1/x?a=b HTTP/1.1\r\nHost: {NAME}:{psp.port}\r\nX-Other: 1\r\nContent-Length: 5\r\n"
        "x-signature: v1=0123456789abcdef\r\nx-time: 1700000000\r\n\r\n"
    )
    assert psp.requests[0].body == b"hello"


def test_guard_is_told_the_digest_of_what_is_sent(way: Injection, psp: Upstream) -> None:
    chunked = f"POST /psp/v1/x HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n"
    assert send(way, post(5), b"hello") == 200
    assert send(way, chunked, b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: v\r\n\r\n") == 200
    assert send(way, f"GET /psp/v1/x HTTP/1.1\r\n{HOST}\r\n") == 200

    asked = way.signer.authorize_requests
    assert [(one.method, one.path, one.query) for one in asked] == [
        ("POST", "/v1/x", "a=b"),
        ("POST", "/v1/x", ""),
        ("GET", "/v1/x", ""),
    ]
    assert [one.body for one in asked] == [
        hashlib.sha256(body).digest() for body in (b"hello", b"hello", b"")
    ]
    assert [one.body for one in psp.requests] == [b"hello", b"hello", b""]
    assert psp.requests[1].values("content-length") == ["5"]
    assert psp.requests[1].values("transfer-encoding") == []


def test_body_over_the_limit_is_refused_before_guard_is_asked(way: Injection, psp: Upstream) -> None:
    chunked = f"POST /psp/v1/x HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n"
    assert send(way, post(LIMIT), b"x" * LIMIT) == 200
    assert send(way, post(LIMIT + 1), b"x" * (LIMIT + 1)) == 413
    assert send(way, chunked, b"fff\r\n" + b"x" * 0xFFF + b"\r\n0\r\n\r\n") == 413
    assert send(way, post(LIMIT), b"x" * LIMIT) == 200

    assert len(way.signer.authorize_requests) == len(psp.requests) == 2


def test_client_that_waits_for_100_is_told_to_go_on(way: Injection, psp: Upstream) -> None:
    with way.bench.connect() as client:
        client.send(post(2).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n").encode())
        assert client.reply().status == 100
        client.send(b"hi")
        assert client.reply().status == 200
    assert psp.requests[0].body == b"hi"


def test_small_bodies_are_covered_and_long_ones_stream(psp: Upstream, identity: TlsIdentity) -> None:
    with injection(psp, identity, "small", "x-amz-") as way:
        assert send(way, post(LIMIT), b"x" * LIMIT) == 200
        assert send(way, post(100 * LIMIT), b"x" * 100 * LIMIT) == 200

    digests = [one.body for one in way.signer.authorize_requests]
    assert digests == [hashlib.sha256(b"x" * LIMIT).digest(), None]
    assert [len(one.body) for one in psp.requests] == [LIMIT, 100 * LIMIT]


def test_every_header_of_the_prefix_is_named_as_it_goes_up(psp: Upstream, identity: TlsIdentity) -> None:
    with injection(psp, identity, "unread", "x-amz-") as way:
        fields = "X-AMZ-Acl:  private \r\nx-amz-hop: 1\r\nConnection: x-amz-hop\r\nX-Time: 1\r\nOther: 2\r\n"
        assert way.get(fields=fields).status == 200

    assert way.signer.authorize_requests[0].headers == [("x-amz-acl", "private")]
    assert psp.requests[0].values("x-amz-acl") == ["private"]
    assert psp.requests[0].values("x-amz-hop") == []


def test_more_than_guard_can_be_told_is_refused_and_the_socket_lives(
    psp: Upstream, identity: TlsIdentity
) -> None:
    with injection(psp, identity, "unread", "x-amz-") as way:
        for fields in (
            "".join(f"x-amz-{number}: {'x' * 3000}\r\n" for number in range(6)),
            "".join(f"x-amz-{number}: x\r\n" for number in range(65)),
        ):
            assert way.get(fields=fields).status == 431
        assert way.get(fields="x-amz-a: b\r\n").status == 200


def test_header_that_guard_did_not_announce_is_not_sent(psp: Upstream, identity: TlsIdentity) -> None:
    way = injection(psp, identity, "unread")
    way.computed = [("x-signature", "v1=abc"), ("x-surprise", "1")]
    with way:
        assert way.get().status == 502
    assert psp.requests == []


def test_computed_secret_does_not_come_back(identity: TlsIdentity) -> None:
    def echo(connection: Connection, request: Received) -> None:
        connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.head), request.head)
        )

    with Upstream(echo, tls=identity.context) as psp, injection(psp, identity, "unread") as way:
        reply = way.get()

    assert b"v1=0123456789abcdef" not in reply.body
    assert b"x-time: 1700000000" in reply.body


@pytest.mark.parametrize(("refusal", "status"), [(6, 403), (7, 403), (8, 502), (10, 502)])
def test_refusal_of_guard_sends_nothing(way: Injection, psp: Upstream, refusal: int, status: int) -> None:
    way.signer.refusal = refusal

    assert send(way, post(2), b"hi") == status
    assert psp.requests == []
