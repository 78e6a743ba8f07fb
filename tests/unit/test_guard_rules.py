"""A configuration wider than the sealed rules is refused by its place, and changes nothing."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from support.guard_client import (
    ECDSA_P256,
    Caller,
    ControlFault,
    GuardClient,
    RefusedByGuard,
    WorkerClient,
    base64url,
    bundle,
    certificate_verify,
    private_key_secret,
    running_guard,
    seal,
    spki,
    token_secret,
)
from support.pki import new_key

CLIENT_CA, UPSTREAM_CA = b"c" * 32, b"u" * 32
TLS, OTHER = new_key("p256"), new_key("p256")
SHOP = {"ca": base64url(CLIENT_CA), "san": "shop-backend"}
TOKEN_USE: dict[str, Any] = {
    "upstream": "https://api.psp.example:443",
    "ca": base64url(UPSTREAM_CA),
    "methods": ["POST"],
    "paths": ["/v1/*"],
    "place": {"header": "Authorization", "scheme": "bearer"},
    "callers": [SHOP, "10.2.0.0/16", {"uid": 1000}],
}
ROUTE: dict[str, Any] = {
    "id": 1,
    "where": "routes[0].inject",
    "secret": "psp",
    "upstream": "https://api.psp.example:443",
    "ca": [base64url(UPSTREAM_CA)],
    "methods": None,
    "paths": None,
    "place": {"header": "Authorization", "scheme": "bearer"},
    "callers": [SHOP, "10.2.3.0/24", {"uid": 1000}],
}
CLAIM: dict[str, Any] = {
    "where": "listeners[0].certificates[0]",
    "key": "tls",
    "spki": base64url(spki(TLS)),
    "names": ["pay.example", "a.shop.example"],
}
TOKEN = "sk_live_4eC39HqLyjWDarjtT1zdp7dc"
NOT_FOR_THIS_SOCKET, UNKNOWN, CALLER, OUTSIDE = 3, 2, 6, 7


def configuration(
    claim: dict[str, Any] | None = None, route: dict[str, Any] | None = None, unbound: bool = False
) -> dict[str, Any]:
    return {"certificates": [CLAIM | (claim or {})], "inject": [ROUTE | (route or {})], "unbound": unbound}


@pytest.fixture(scope="module")
def running() -> Iterator[GuardClient]:
    secrets = {
        "tls": private_key_secret(TLS, {"names": ["pay.example", "*.shop.example"], "roles": ["server"]}),
        "psp": token_secret(TOKEN, TOKEN_USE),
        "loose": token_secret("loose-token"),
        "requests": private_key_secret(OTHER, {"names": ["pay.example"], "roles": ["csr"]}),
    }
    key = os.urandom(32)
    with running_guard() as guard:
        guard.load(seal(bundle(secrets), key), key)
        yield guard


@pytest.fixture
def guard(running: GuardClient) -> GuardClient:
    """Twice, so that the configuration before is the same one."""
    running.configure(configuration())
    running.configure(configuration())
    return running


@pytest.fixture
def egress(guard: GuardClient) -> Iterator[WorkerClient]:
    worker = guard.egress()
    yield worker
    worker.socket.close()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"names": ["pay.example", "admin.example"]}, "rules", '"admin.example"'),
        ({"names": ["*.example"]}, "rules", '"*.example"'),
        ({"names": ["shop.example"]}, "rules", '"shop.example"'),
        ({"names": ["b.a.shop.example"]}, "rules", '"b.a.shop.example"'),
        ({"names": []}, "rules", "no subject alternative name"),
        ({"spki": base64url(spki(OTHER))}, "key", "does not belong"),
        ({"spki": "!"}, "key", "does not belong"),
        ({"key": "requests", "spki": base64url(spki(OTHER))}, "rules", "role server"),
        ({"key": "psp"}, "key", "no private key"),
        ({"key": "absent"}, "key", "no private key"),
    ],
)
def test_certificate_outside_the_rules_is_refused(
    guard: GuardClient, change: dict[str, Any], kind: str, message: str
) -> None:
    with pytest.raises(ControlFault) as refused:
        guard.configure(configuration(claim=change))

    assert (refused.value.kind, refused.value.where) == (kind, "listeners[0].certificates[0]")
    assert message in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"upstream": "https://evil.example:443"}, "rules", "upstream is https://evil.example:443"),
        ({"upstream": "https://api.psp.example:8443"}, "rules", "upstream"),
        ({"ca": None}, "rules", "ca is the system's store"),
        ({"ca": [base64url(CLIENT_CA)]}, "rules", "ca"),
        ({"methods": ["POST", "GET"]}, "rules", "methods is POST, GET"),
        ({"paths": ["/*"]}, "rules", "paths"),
        ({"paths": ["/v1"]}, "rules", "paths"),
        ({"place": {"header": "X-Token", "scheme": "bearer"}}, "rules", "place is X-Token (bearer)"),
        ({"place": {"header": "Authorization", "scheme": "raw"}}, "rules", "place"),
        ({"callers": ["anyone"]}, "rules", "callers is anyone"),
        ({"callers": ["10.0.0.0/8"]}, "rules", "callers"),
        ({"callers": [SHOP | {"san": "other"}]}, "rules", "callers"),
        ({"callers": [{"uid": 0}]}, "rules", "callers"),
        ({"secret": "loose"}, "rules", "without rules"),
        ({"secret": "tls"}, "key", "no token"),
        ({"secret": "absent"}, "key", "no token"),
        ({"id": 0}, "malformed", "numbered from 1"),
    ],
)
def test_route_outside_the_rules_is_refused(
    guard: GuardClient, egress: WorkerClient, change: dict[str, Any], kind: str, message: str
) -> None:
    with pytest.raises(ControlFault) as refused:
        guard.configure(configuration(route=change))

    assert (refused.value.kind, refused.value.where) == (kind, "routes[0].inject")
    assert message in refused.value.message
    assert TOKEN not in str(refused.value)
    assert egress.token(caller=Caller("10.2.3.9")).decode() == TOKEN


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        {"certificates": [], "inject": [], "extra": 1},
        configuration(route={"callers": []}),
        configuration(route={"callers": ["everyone"]}),
        configuration(route={"upstream": "http://api.psp.example"}),
        configuration(route={"methods": ["post"]}),
        configuration(route={"paths": ["/v1/../*"]}),
        configuration(route={"id": 70000}),
        {"certificates": [CLAIM], "inject": [ROUTE, ROUTE]},
    ],
    ids=range(12),
)
def test_malformed_configuration_is_refused_and_the_old_one_holds(
    guard: GuardClient, egress: WorkerClient, content: object
) -> None:
    with pytest.raises(ControlFault) as refused:
        guard.ask(0x41, content)

    assert refused.value.kind == "malformed"
    assert egress.token(caller=Caller("10.2.3.9")).decode() == TOKEN


def test_unbound_token_needs_the_configurations_word(guard: GuardClient, egress: WorkerClient) -> None:
    loose = {
        "id": 7,
        "secret": "loose",
        "upstream": "https://any.example:443",
        "ca": None,
        "callers": ["anyone"],
    }

    answer = guard.configure(configuration(route=loose, unbound=True))

    assert "no sealed rules" in answer["warnings"][0]
    assert egress.token(7, upstream="https://any.example:443") == b"loose-token"


CALLERS = [
    Caller("10.2.3.9"),
    Caller("192.0.2.1", ca=CLIENT_CA, names=("other", "shop-backend")),
    Caller("::ffff:10.2.3.9"),
    Caller("", uid=1000),
]


@pytest.mark.parametrize("caller", CALLERS, ids=str)
def test_token_goes_to_egress_for_an_allowed_caller(egress: WorkerClient, caller: Caller) -> None:
    assert egress.token(caller=caller).decode() == TOKEN


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ({"route": 2}, UNKNOWN),
        ({"route": 0}, UNKNOWN),
        ({"method": "GET"}, OUTSIDE),
        ({"method": "post"}, OUTSIDE),
        ({"method": ""}, OUTSIDE),
        ({"upstream": "https://evil.example:443"}, OUTSIDE),
        ({"upstream": "https://api.psp.example:444"}, OUTSIDE),
        ({"upstream": "http://api.psp.example:443"}, OUTSIDE),
        ({"upstream": "https://api.psp.example:443@evil.example"}, OUTSIDE),
        ({"path": "/v2/charges"}, OUTSIDE),
        ({"path": "/v1"}, OUTSIDE),
        ({"path": "/v1/../admin"}, OUTSIDE),
        ({"path": "/v1/%2e%2e/admin"}, OUTSIDE),
        ({"path": "/v1/a%2fb"}, OUTSIDE),
        ({"path": "/v1//x"}, OUTSIDE),
        ({"path": "/v1/x?y"}, OUTSIDE),
        ({"path": ""}, OUTSIDE),
        ({"caller": Caller("10.2.4.1")}, CALLER),
        ({"caller": Caller("192.0.2.1")}, CALLER),
        ({"caller": Caller("192.0.2.1", ca=UPSTREAM_CA, names=("shop-backend",))}, CALLER),
        ({"caller": Caller("192.0.2.1", ca=CLIENT_CA, names=("other",))}, CALLER),
        ({"caller": Caller("192.0.2.1", ca=CLIENT_CA)}, CALLER),
        ({"caller": Caller("", uid=0)}, CALLER),
        ({"caller": Caller("192.0.2.1", uid=1001)}, CALLER),
    ],
    ids=str,
)
def test_token_is_refused_for_a_wrong_field(egress: WorkerClient, field: dict[str, Any], code: int) -> None:
    with pytest.raises(RefusedByGuard) as refused:
        egress.token(**({"caller": Caller("10.2.3.9")} | field))

    assert refused.value.code == code


def test_edge_never_gets_a_token(guard: GuardClient) -> None:
    edge = guard.edge()

    with pytest.raises(RefusedByGuard) as refused:
        edge.token()

    assert refused.value.code == NOT_FOR_THIS_SOCKET
    edge.socket.close()


def test_the_configuration_before_stays_answerable_once(guard: GuardClient, egress: WorkerClient) -> None:
    edge = guard.edge()
    other = {"certificates": [], "inject": [ROUTE | {"id": 2, "paths": ["/v1/new"]}]}
    guard.configure(other)

    assert egress.token(1, caller=Caller("10.2.3.9")).decode() == TOKEN
    assert egress.token(2, path="/v1/new", caller=Caller("10.2.3.9")).decode() == TOKEN
    edge.sign(1, ECDSA_P256, certificate_verify())
    guard.configure(other)

    with pytest.raises(RefusedByGuard):
        egress.token(1, caller=Caller("10.2.3.9"))
    with pytest.raises(RefusedByGuard):
        edge.sign(1, ECDSA_P256, certificate_verify())
    edge.socket.close()


def test_configured_paths_and_methods_narrow_the_sealed_ones(
    guard: GuardClient, egress: WorkerClient
) -> None:
    guard.configure(configuration(route={"paths": ["/v1/charges"]}))
    assert egress.token(path="/v1/charges", caller=Caller("10.2.3.9")).decode() == TOKEN

    with pytest.raises(RefusedByGuard) as refused:
        egress.token(path="/v1/refunds", caller=Caller("10.2.3.9"))

    assert refused.value.code == OUTSIDE


def test_tokens_are_counted(guard: GuardClient, egress: WorkerClient) -> None:
    before = guard.status()
    egress.token(caller=Caller("10.2.3.9"))
    with pytest.raises(RefusedByGuard):
        egress.token(caller=Caller("192.0.2.1"))

    after = guard.status()

    assert after["tokens"][0]["given"] == before["tokens"][0]["given"] + 1
    assert after["refusals"]["caller"] == before["refusals"].get("caller", 0) + 1
    assert TOKEN not in str(after)
