"""Tokens on their way: edge, egress, an upstream that must prove its name. The token never comes back to a client."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.edge_bench import client_certificate
from support.edge_egress import NAME, TOKEN, Injection, TlsIdentity
from support.edge_upstream import OK, Connection, Received, Upstream
from support.pki import Authority

HOST = "Host: pay.example\r\n"
ASK = f"GET /psp/v1/charges HTTP/1.1\r\n{HOST}\r\n"


@pytest.fixture
def identity(tmp_path: Path) -> TlsIdentity:
    return TlsIdentity(tmp_path, NAME)


@pytest.fixture
def psp(identity: TlsIdentity) -> Iterator[Upstream]:
    with Upstream(tls=identity.context) as upstream:
        yield upstream


@pytest.fixture
def way(psp: Upstream, identity: TlsIdentity) -> Iterator[Injection]:
    with Injection(psp, identity.ca) as injection:
        yield injection


def test_token_arrives_at_the_upstream_and_the_client_stays_unknown(way: Injection, psp: Upstream) -> None:
    reply = way.get("/psp/v1/%63harges?a=b", "Accept: x\r\nX-Forwarded-For: 6.6.6.6\r\n")

    assert reply.status == 200
    assert psp.requests[0].head.decode() == (
        f"GET /v1/charges?a=b HTTP/1.1\r\nHost: {NAME}:{psp.port}\r\nAccept: x\r\n"
        f"Authorization: Bearer {TOKEN.decode()}\r\n\r\n"
    )


def test_guard_is_asked_for_method_upstream_path_and_caller(way: Injection, psp: Upstream) -> None:
    with way.bench.connect() as client:
        client.ask(f"POST /psp/v1/x?secret HTTP/1.1\r\n{HOST}Content-Length: 2\r\n\r\nhi")

    asked = way.signer.token_requests[0]
    assert (asked.route, asked.method, asked.upstream, asked.path) == (
        1,
        "POST",
        f"https://{NAME}:{psp.port}",
        "/v1/x",
    )
    assert asked.caller == b"\x00\x00\x09127.0.0.1"
    assert psp.requests[0].body == b"hi"


def test_verified_client_certificate_is_passed_to_guard(
    psp: Upstream, identity: TlsIdentity, tmp_path: Path
) -> None:
    shop = Authority(tmp_path, "shop")
    with Injection(psp, identity.ca, client_ca=shop.path.read_text()) as way:
        context = way.bench.context()
        context.load_cert_chain(client_certificate(tmp_path, shop, [x509.DNSName("shop-backend")]))
        with way.bench.connect(context=context) as client:
            assert client.ask(ASK).status == 200

        digest = hashes.Hash(hashes.SHA256())
        key = shop.certificate.public_key()
        digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        assert way.signer.token_requests[0].caller == (
            b"\x01\x00\x09127.0.0.1\x00\x20" + digest.finalize() + b"\x00\x01\x00\x0cshop-backend"
        )


def test_every_request_asks_anew_over_kept_connections(way: Injection, psp: Upstream) -> None:
    with way.bench.connect() as client:
        assert [client.ask(ASK).status for _ in range(5)] == [200] * 5

    assert len(way.signer.token_requests) == 5
    assert psp.connections == 1


def test_raw_scheme_and_other_header(psp: Upstream, identity: TlsIdentity) -> None:
    with Injection(psp, identity.ca, header="X-Api-Key", scheme="raw") as way:
        way.get(fields="x-api-key: mine\r\nX_Api_Key: mine\r\nAuthorization: Basic eA==\r\n")

    assert psp.requests[0].values("x-api-key") == [TOKEN.decode()]
    assert psp.requests[0].values("x_api_key") == []
    assert psp.requests[0].values("authorization") == ["Basic eA=="]


@pytest.mark.parametrize(
    "fields",
    [
        "Authorization: Bearer mine\r\n",
        "authorization: Bearer mine\r\nAUTHORIZATION: Bearer mine\r\n",
        "Connection: Authorization\r\nAuthorization: Bearer mine\r\n",
    ],
)
def test_clients_own_copy_of_the_header_is_removed(way: Injection, psp: Upstream, fields: str) -> None:
    way.get(fields=fields)

    assert psp.requests[0].values("authorization") == [f"Bearer {TOKEN.decode()}"]


@pytest.mark.parametrize(
    "path",
    [
        "/psp/v1%2fadmin",
        "/psp/v1%2Fadmin",
        "/psp/v1/../admin",
        "/psp/..",
        "/psp/./v1",
        "/psp/%2e%2e/v1",
        "/psp/v1;x=y",
        "/psp/v1%3bx",
        "/psp//v1",
        "/psp/v1\\admin",
        "/psp/v1%5cadmin",
        "/psp/v1%252fadmin",
        "/psp/v1%00",
        "/psp/v1%",
        "/psp/%ff",
        "/psp/" + "x" * 9000,
        "https://pay.example/psp/v1",
    ],
)
def test_path_that_two_servers_could_read_differently_is_refused(
    way: Injection, psp: Upstream, path: str
) -> None:
    reply = way.get(path)

    assert reply.status == 400
    assert (psp.requests, way.signer.token_requests) == ([], [])


@pytest.mark.parametrize(
    "fields",
    [
        HOST,
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n",
    ],
)
def test_ambiguous_request_gets_no_token(way: Injection, psp: Upstream, fields: str) -> None:
    reply = way.get(fields=fields)

    assert reply.status == 400
    assert (psp.requests, way.signer.token_requests) == ([], [])


@pytest.mark.parametrize(("refusal", "status"), [(2, 502), (6, 403), (7, 403), (8, 502), (10, 502)])
def test_without_a_token_there_is_no_request(
    way: Injection, psp: Upstream, refusal: int, status: int
) -> None:
    way.signer.refusal = refusal
    assert way.get().status == status
    assert psp.requests == []
    assert way.egress.status()["inject_failed"] == 1

    way.signer.refusal = None
    assert way.get().status == 200


def test_dead_guard_means_502(way: Injection, psp: Upstream) -> None:
    with way.bench.connect() as client:
        assert client.ask(ASK).status == 200
        way.signer.close()
        assert client.ask(ASK).status == 502

    assert len(psp.requests) == 1


@pytest.mark.parametrize("token", [b"a\r\nX: y", b"a\x00b", b"\xff"])
def test_secret_that_is_no_field_value_is_not_sent(
    psp: Upstream, identity: TlsIdentity, token: bytes
) -> None:
    with Injection(psp, identity.ca, token=token) as way:
        assert way.get().status == 502
    assert psp.requests == []


def test_upstream_with_another_name_gets_neither_token_nor_request(
    psp: Upstream, identity: TlsIdentity
) -> None:
    with Injection(psp, identity.ca, name="other.example") as way:
        assert way.get().status == 502
        assert (psp.requests, way.signer.token_requests) == ([], [])


def test_upstream_of_another_ca_gets_neither_token_nor_request(psp: Upstream, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    with Injection(psp, other.path.read_text()) as way:
        assert way.get().status == 502
        assert (psp.requests, way.signer.token_requests) == ([], [])


def test_upstream_without_tls_gets_neither_token_nor_request(identity: TlsIdentity) -> None:
    with Upstream() as plain, Injection(plain, identity.ca, timeouts={"connect": 500}) as way:
        assert way.get().status in {502, 504}
        assert (plain.requests, way.signer.token_requests) == ([], [])


def test_echo_of_the_token_does_not_come_back(identity: TlsIdentity) -> None:
    def echo(connection: Connection, request: Received) -> None:
        value = request.values("authorization")[0].encode()
        connection.send(
            b"HTTP/1.1 103 Hints\r\nLink: %b\r\n\r\nHTTP/1.1 200 %b\r\nX-Debug: got %b!\r\nAuthorization: x\r\n"
            b"X-Ok: yes\r\nContent-Length: 0\r\n\r\n" % (value, value, value)
        )

    with (
        Upstream(echo, tls=identity.context) as psp,
        Injection(psp, identity.ca) as way,
        way.bench.connect() as client,
    ):
        heads = [client.ask(ASK).head, client.reply().head]
        # The token is looked for in every response, also on a kept connection.
        heads += [client.ask(ASK).head, client.reply().head]

    assert (
        heads == ["HTTP/1.1 103 Hints\r\n\r\n", "HTTP/1.1 200 \r\nX-Ok: yes\r\nContent-Length: 0\r\n\r\n"] * 2
    )


def test_echo_in_a_body_is_overwritten_and_whole_plain_bodies_are_asked_for(identity: TlsIdentity) -> None:
    def echo(connection: Connection, request: Received) -> None:
        body = b"<" + request.head + b">"
        half = len(body) - 12  # in the middle of the token
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body[:half]))
        connection.send(body[half:])

    with Upstream(echo, tls=identity.context) as psp, Injection(psp, identity.ca) as way:
        reply = way.get(fields="Accept-Encoding: gzip\r\nRange: bytes=0-9\r\nIf-Range: x\r\n")

    masked = b"*" * len(TOKEN)
    assert reply.body == b"<" + psp.requests[0].head.replace(TOKEN, masked) + b">"
    assert masked in reply.body
    assert [psp.requests[0].values(name) for name in ("accept-encoding", "range", "if-range")] == [[], [], []]


def test_closed_pooled_connection_is_replaced_for_harmless_requests(way: Injection, psp: Upstream) -> None:
    with way.bench.connect() as client:
        assert client.ask(ASK).status == 200
        psp.close_connections()
        assert client.ask(ASK).status == 200

    assert psp.connections == 2


def test_cut_of_a_response_without_length_is_seen_by_the_client(identity: TlsIdentity) -> None:
    def cut(connection: Connection, _: Received) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nhalf of ")
        return False

    def whole(connection: Connection, _: Received) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        assert isinstance(connection.socket, ssl.SSLSocket)
        with contextlib.suppress(OSError):
            connection.socket.unwrap()
        return False

    with (
        Upstream(cut, tls=identity.context) as psp,
        Injection(psp, identity.ca) as way,
        pytest.raises(EOFError),
    ):
        way.get()
    with Upstream(whole, tls=identity.context) as psp, Injection(psp, identity.ca) as way:
        assert way.get().body == b"all of it"


def test_killed_egress_is_a_502_until_another_one_is_there(way: Injection, psp: Upstream) -> None:
    with way.bench.connect() as client:
        assert client.ask(ASK).status == 200
        way.egress.process.kill()
        way.egress.process.wait()
        assert client.ask(ASK).status == 502
        way.replace_egress()
        assert client.ask(ASK).status == 200


def test_large_bodies_pass_both_processes(identity: TlsIdentity) -> None:
    content = bytes(range(256)) * 8000

    def mirror(connection: Connection, request: Received) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body) + request.body)

    with (
        Upstream(mirror, tls=identity.context) as psp,
        Injection(psp, identity.ca) as way,
        way.bench.connect() as client,
    ):
        reply = client.ask(
            f"POST /psp/x HTTP/1.1\r\n{HOST}Content-Length: {len(content)}\r\n\r\n".encode() + content
        )
        assert reply.body == content
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
        head = f"POST /psp/x HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n".encode()
        assert client.ask(head + chunks).body == content


def test_broken_edge_gets_nothing_out_of_egress(way: Injection, psp: Upstream) -> None:
    def preface(version: int, route: int, rest: bytes = b"\x00\x00\x09127.0.0.1") -> bytes:
        body = bytes([version]) + route.to_bytes(2, "big") + rest
        return len(body).to_bytes(4, "big") + body

    request = b"GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n"
    cases = [
        (preface(2, 1) + request, b""),
        (preface(1, 1) + b"GET /v1%2f HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400 "),
        (
            preface(1, 1) + b"GET https://evil.example/v1 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"HTTP/1.1 400 ",
        ),
        (preface(1, 1) + b"GET /v1 HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"HTTP/1.1 400 "),
        (preface(1, 9) + request, b"HTTP/1.1 502 "),
        (preface(1, 1, b"\x00\x00\x09not an ip") + request, b""),
        (b"\xff\xff\xff\xff", b""),
        (request, b""),
    ]
    for sent, expected in cases:
        with way.open_stream() as stream:
            stream.sendall(sent)
            assert stream.recv(65536).startswith(expected) if expected else stream.recv(65536) == b""

    assert (psp.requests, way.signer.token_requests) == ([], [])
    with way.open_stream() as stream:
        # The path is normalised and the header written by egress, whatever edge says.
        stream.sendall(preface(1, 1) + b"GET /%761 HTTP/1.1\r\nHost: evil\r\nAuthorization: x\r\n\r\n")
        assert stream.recv(65536) == OK
    assert psp.requests[0].line == "GET /v1 HTTP/1.1"
    assert psp.requests[0].values("authorization") == [f"Bearer {TOKEN.decode()}"]
