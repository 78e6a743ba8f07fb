"""New configurations for a running edge: in force for the next handshake and the next request, or not at all."""

from __future__ import annotations

import ssl
import threading
from typing import Any

import pytest
from cryptography import x509
from support.edge_bench import Bench, Client, issue
from support.edge_egress import TlsIdentity
from support.edge_process import Program
from support.edge_signer import Signer
from support.edge_upstream import Connection, Received, Upstream
from support.pki import new_key

HOST = "Host: pay.example\r\n"
GET = f"GET / HTTP/1.1\r\n{HOST}\r\n"
RELOADED = {"event": "reloaded"}


def named(name: bytes) -> Upstream:
    return Upstream(lambda one, _: one.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name))


def serial(client: Client) -> int:
    certificate = client.tls.getpeercert(binary_form=True)
    assert certificate
    return x509.load_der_x509_certificate(certificate).serial_number


def test_open_connection_sees_new_routes_and_keeps_its_upstream_connections() -> None:
    with named(b"a") as first, named(b"b") as second:
        servers = {"app": [first.address], "next": [second.address]}
        with Bench(servers=servers, workers=2) as bench, bench.connect() as client:
            assert client.ask(GET).body == b"a"
            config = bench.config
            config["routes"] = [{"path": "/new", "upstream": "next"}, {"upstream": "app"}]
            assert bench.program.reload(config) == RELOADED
            assert client.ask(f"GET /new HTTP/1.1\r\n{HOST}\r\n").body == b"b"
            assert client.ask(GET).body == b"a"

            assert first.connections == 1
            assert bench.program.status()["generation"] == 2


def test_request_under_way_ends_as_it_began() -> None:
    asked, release = threading.Event(), threading.Event()

    def serve(connection: Connection, _: Received) -> None:
        asked.set()
        assert release.wait(30)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")

    with (
        Upstream(serve) as app,
        named(b"n") as other,
        Bench(servers={"app": [app.address]}) as bench,
        bench.connect() as client,
    ):
        client.send(GET)
        assert asked.wait(10)
        config = bench.config
        config["upstreams"]["app"]["servers"] = [other.address]
        assert bench.program.reload(config) == RELOADED
        release.set()

        assert client.reply().body == b"old"
        assert client.ask(GET).body == b"n"


def test_new_certificate_serves_new_handshakes_with_the_same_key() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench, bench.connect() as old:
        config = bench.config
        chain = issue(bench.authority, bench.signer.keys[1], [x509.DNSName("pay.example")])
        config["listeners"][0]["certificates"][0]["chain"] = chain
        assert bench.program.reload(config) == RELOADED
        with bench.connect() as new:
            assert serial(new) == x509.load_pem_x509_certificate(chain.encode()).serial_number
            assert serial(new) != serial(old)
            assert (new.ask(GET).status, old.ask(GET).status) == (200, 200)


def test_session_outlives_a_reload_unless_clients_must_show_certificates() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        context = bench.context()
        with bench.connect(context=context) as first:
            first.ask(GET)
            session = first.tls.session
        assert bench.program.reload(bench.config) == RELOADED
        with bench.connect(context=context, session=session) as second:
            second.ask(GET)
            assert second.tls.session_reused
        config = bench.config
        config["listeners"][0]["client_ca"] = bench.authority.path.read_text()
        assert bench.program.reload(config) == RELOADED
        with (
            pytest.raises((ssl.SSLError, ConnectionResetError)),
            bench.connect(context=context, session=session) as third,
        ):
            third.ask(GET)


def test_limits_and_times_change() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench, bench.connect() as client:
        config = bench.config
        config["limits"] = {"header_bytes": 200}
        config["timeouts_ms"] = {"idle": 300}
        assert bench.program.reload(config) == RELOADED
        with bench.connect() as fresh:
            assert fresh.ask(f"GET / HTTP/1.1\r\n{HOST}A: {'x' * 200}\r\n\r\n").status == 431
        with bench.connect() as fresh:
            assert fresh.rest() == b""
        # A connection keeps the times of its handshake.
        assert client.ask(GET).status == 200


def changed(config: dict[str, Any], what: str) -> dict[str, Any]:
    listener = config["listeners"][0]
    match what:
        case "chain":
            listener["certificates"][0]["chain"] = "not PEM"
        case "algorithm":
            listener["certificates"][0]["algorithm"] = "dsa"
        case "no certificate":
            listener["certificates"] = []
        case "client_ca":
            listener["client_ca"] = "not PEM"
        case "upstream":
            config["routes"] = [{"upstream": "nowhere"}]
        case "no server":
            config["upstreams"]["app"]["servers"] = []
        case "tls":
            config["upstreams"]["app"]["tls"] = {"name": "app.example", "ca": None}
        case "name":
            listener["name"] = "other"
        case "workers":
            config["workers"] = 2
        case "role":
            config["role"] = "egress"
        case "unknown":
            config["routes"][0]["typo"] = 1
    return config


@pytest.mark.parametrize(
    "what",
    [
        "chain",
        "algorithm",
        "no certificate",
        "client_ca",
        "upstream",
        "no server",
        "tls",
        "name",
        "workers",
        "role",
        "unknown",
    ],
)
def test_configuration_that_does_not_hold_leaves_the_old_one_in_force(what: str) -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench, bench.connect() as client:
        answer = bench.program.reload(changed(bench.config, what))

        assert answer["event"] == "refused"
        assert answer["message"]
        assert (client.ask(GET).status, bench.get().status) == (200, 200)
        assert bench.program.status()["generation"] == 1


@pytest.mark.parametrize("what", ["chain", "upstream", "workers", "role", "tls"])
def test_configuration_that_does_not_hold_is_no_start(what: str) -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        program = Program.start(changed(bench.config, what), bench.program.kept, ready=False)

        assert program.process.wait(20) == 21
        assert program.event() == {}
        program.control.close()
        assert program.close_log().startswith("unlatch-edge: error: ")


@pytest.mark.parametrize(
    "change",
    [
        {"upstreams": {"psp": {"servers": ["127.0.0.1:1"], "tls": None}}},
        {"upstreams": {"psp": {"servers": ["127.0.0.1"], "tls": {"name": "psp.example", "ca": "CA"}}}},
        {"upstreams": {"psp": {"servers": ["127.0.0.1:1"], "tls": {"name": "not a name", "ca": "CA"}}}},
        {"upstreams": {"psp": {"servers": ["127.0.0.1:1"], "tls": {"name": "psp.example", "ca": "x"}}}},
        {"routes": [{"id": 1, "upstream": "psp", "header": "A: b\r\nX", "scheme": "raw"}]},
        {"routes": [{"upstream": "psp", "header": "A", "scheme": "raw"}]},
    ],
)
def test_egress_refuses_to_send_tokens_in_clear_or_into_other_lines(
    change: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ca = TlsIdentity(tmp_path_factory.mktemp("ca"), "psp.example").ca
    signer = Signer()
    guard = signer.connect()
    config: dict[str, Any] = {
        "role": "egress",
        "guard": [guard.fileno()],
        "edge": None,
        "routes": [{"id": 1, "upstream": "psp", "header": "Authorization", "scheme": "bearer"}],
        "upstreams": {"psp": {"servers": ["127.0.0.1:1"], "tls": {"name": "psp.example", "ca": "CA"}}},
    } | change
    tls = config["upstreams"]["psp"]["tls"]
    if tls and tls["ca"] == "CA":
        config["upstreams"]["psp"]["tls"] = {**tls, "ca": ca}
    with guard:
        program = Program.start(config, [guard], ready=False)
        assert program.process.wait(20) == 21
        program.control.close()
        assert program.close_log().startswith("unlatch-edge: error: ")
    signer.close()


def test_another_key_needs_no_restart() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}) as bench:
        key = new_key("ed25519")
        bench.signer.keys[2] = key
        config = bench.config
        config["listeners"][0]["certificates"].append(
            {
                "chain": issue(bench.authority, key, [x509.DNSName("new.example")]),
                "key": 2,
                "algorithm": "ed25519",
            }
        )
        assert bench.program.reload(config) == RELOADED
        with bench.connect("new.example") as client:
            assert client.ask("GET / HTTP/1.1\r\nHost: new.example\r\n\r\n").status == 200
