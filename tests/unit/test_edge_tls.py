"""TLS at edge: keys elsewhere, certificates by name and ability, tickets, clients' certificates, a guard that fails."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from support.edge_bench import TICKETS, Bench, client_certificate
from support.edge_upstream import Upstream
from support.pki import Authority

ASK = "GET / HTTP/1.1\r\nHost: pay.example\r\n\r\n"


def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = version
    return context


def server_name(client: ssl.SSLSocket) -> str:
    certificate = client.getpeercert()
    assert certificate
    return str(certificate["subjectAltName"][0][1])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["p256", "rsa", "ed25519"])
def test_every_key_kind_serves_both_versions(kind: str, version: ssl.TLSVersion) -> None:
    with (
        Upstream() as app,
        Bench(servers={"app": [app.address]}, certificates=[(kind, ["pay.example"])]) as bench,
    ):
        with bench.connect(context=only(bench.context(), version)) as client:
            reply = client.ask(ASK)

        assert (reply.status, reply.body) == (200, b"ok")
        assert bench.signer.signed == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pay.example", "pay.example"),
        ("shop.example", "shop.example"),
        ("a.wild.example", "*.wild.example"),
        ("unknown.example", "pay.example"),
    ],
)
def test_certificate_follows_the_name(name: str, expected: str) -> None:
    certificates = [("p256", ["pay.example"]), ("ed25519", ["shop.example"]), ("p256", ["*.wild.example"])]
    with Upstream() as app, Bench(servers={"app": [app.address]}, certificates=certificates) as bench:
        context = bench.context()
        context.check_hostname = False
        with bench.connect(name, context=context) as client:
            assert server_name(client.tls) == expected


@pytest.mark.parametrize(
    ("ciphers", "expected"), [("ECDHE-RSA-AES128-GCM-SHA256", 1), ("ECDHE-ECDSA-AES128-GCM-SHA256", 2)]
)
def test_rsa_and_ecdsa_stand_side_by_side(ciphers: str, expected: int) -> None:
    certificates = [("rsa", ["pay.example"]), ("p256", ["pay.example"])]
    with Upstream() as app, Bench(servers={"app": [app.address]}, certificates=certificates) as bench:
        context = only(bench.context(), ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(ciphers)
        with bench.connect(context=context) as client:
            cipher = client.tls.cipher()

        assert cipher is not None
        assert cipher[0] == ciphers
        assert (bench.signer.schemes[0] == 0x0403) == (expected == 2)


def test_client_without_a_common_suite_gets_an_alert() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        context = only(bench.context(), ssl.TLSVersion.TLSv1_2)
        context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
        with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
            bench.connect(context=context)

        assert bench.program.reaches("handshakes_failed", 1)


def test_only_http11_is_spoken() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        context = bench.context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with bench.connect(context=context) as client:
            assert client.tls.selected_alpn_protocol() == "http/1.1"
        context.set_alpn_protocols(["h2"])
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            bench.connect(context=context)


def test_session_is_resumed_without_a_signature() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}, workers=2) as bench:
        context = bench.context()
        with bench.connect(context=context) as first:
            first.ask(ASK)
            session = first.tls.session
        with bench.connect(context=context, session=session) as second:
            assert second.tls.session_reused
            assert second.ask(ASK).status == 200

        status = bench.program.status()
        assert (status["handshakes"], status["handshakes_resumed"], bench.signer.signed) == (2, 1, 1)


def test_ticket_of_another_epoch_or_key_gives_a_full_handshake() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        context = bench.context()
        with bench.connect(context=context) as first:
            first.ask(ASK)
            session = first.tls.session
        bench.signer.ticket_keys = (8, 3600, b"\x33" * 32, b"\x44" * 32)
        fresh = bench.signer.connect()
        with fresh:
            bench.program.order({"do": "guard"}, [fresh.fileno()])
        assert bench.program.event() == {"event": "replaced"}
        with bench.connect(context=context, session=session) as second:
            assert not second.tls.session_reused


def test_ticket_of_the_epoch_before_still_opens() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        context = bench.context()
        with bench.connect(context=context) as first:
            first.ask(ASK)
            session = first.tls.session
        bench.signer.ticket_keys = (TICKETS[0] + 1, 3600, TICKETS[3], b"\x44" * 32)
        fresh = bench.signer.connect()
        with fresh:
            bench.program.order({"do": "guard"}, [fresh.fileno()])
        assert bench.program.event() == {"event": "replaced"}
        with bench.connect(context=context, session=session) as second:
            assert second.tls.session_reused


def test_tls12_gets_no_ticket_and_a_guard_without_keys_gives_none() -> None:
    for tickets, version in [(True, ssl.TLSVersion.TLSv1_2), (False, ssl.TLSVersion.TLSv1_3)]:
        with Upstream() as app, Bench(servers={"app": [app.address]}, tickets=tickets) as bench:
            context = only(bench.context(), version)
            with bench.connect(context=context) as first:
                first.ask(ASK)
                session = first.tls.session
                assert not (session and session.has_ticket)
                if version == ssl.TLSVersion.TLSv1_2:
                    with bench.connect(context=context, session=session) as second:
                        assert not second.tls.session_reused


def test_exactly_one_ticket_is_sent() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        host, port = bench.address
        done = subprocess.run(
            [
                "openssl",
                "s_client",
                "-connect",
                f"{host}:{port}",
                "-servername",
                "pay.example",
                "-msg",
                "-ign_eof",
            ],
            input=ASK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").encode(),
            capture_output=True,
            timeout=30,
            check=False,
        )

        assert done.stdout.count(b"NewSessionTicket") == 1


def test_killed_guard_means_an_alert_and_a_new_one_heals() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        with bench.connect() as survivor:
            bench.signer.close()
            with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
                bench.connect()
            assert survivor.ask(ASK).status == 200
        assert bench.program.status()["guard_gone"] >= 1

        fresh = bench.signer.connect()
        with fresh:
            assert bench.program.reload(bench.config, [fresh]) == {"event": "reloaded"}
        assert bench.get().status == 200


@pytest.mark.parametrize("refusal", [2, 4, 8, 10])
def test_refused_signature_fails_that_handshake_only(refusal: int) -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        bench.signer.refusal = refusal
        with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
            bench.connect()
        bench.signer.refusal = None

        assert bench.get().status == 200
        assert bench.program.status()["guard_refused"] >= 1


def test_silent_guard_holds_nobody_up_for_long() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench, bench.connect() as survivor:
        bench.signer.silent = True
        for _ in range(3):
            # Only the first waits; a late guard is left alone for a moment.
            with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
                bench.connect()

        assert survivor.ask(ASK).status == 200
        assert bench.program.status()["guard_late"] >= 1


def test_client_certificate_is_wanted_and_verified(tmp_path: Path) -> None:
    trusted, other = Authority(tmp_path, "shop"), Authority(tmp_path, "other")
    client_ca = trusted.path.read_text()
    with Upstream() as app, Bench(servers={"app": [app.address]}, client_ca=client_ca) as bench:
        context = bench.context()
        context.load_cert_chain(client_certificate(tmp_path, trusted, [x509.DNSName("shop-backend")]))
        with bench.connect(context=context) as client:
            assert client.ask(ASK).status == 200
            session = client.tls.session
        with bench.connect(context=context, session=session) as client:
            assert client.tls.session_reused
            assert client.ask(ASK).status == 200

        stranger = bench.context()
        stranger.load_cert_chain(client_certificate(tmp_path, other, [x509.DNSName("shop-backend")]))
        for refused in (bench.context(), stranger):
            with (
                pytest.raises((ssl.SSLError, ConnectionResetError)),
                bench.connect(context=refused) as client,
            ):
                client.ask(ASK)


def test_garbage_and_plain_http_are_no_handshake() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        for data in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + b"x" * 100,
            b"\x00" * 500,
        ):
            with socket.create_connection(bench.address, timeout=30) as raw:
                raw.sendall(data)
                answer = raw.recv(100)
                assert answer == b"" or answer[0] == 21

        assert bench.get().status == 200
        assert bench.program.reaches("handshakes_failed", 3)
