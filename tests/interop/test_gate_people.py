"""The people's listener: what needs a session, what needs a signature, and what strangers get."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from support.gate import Gate, Opening
from support.product import eventually
from support.ssh_keys import SshKey

from unlatch.bootstrap.approval import base64url
from unlatch.gate.signing import sign
from unlatch.gate.statement import NAMESPACE, SESSION_NAMESPACE, session_message

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate with an administrator and an operator."""
    with Gate(tmp_path_factory.mktemp("gate"), operators=("mara", "jo")) as running:
        yield running


@pytest.fixture(scope="module")
def waiting(gate: Gate) -> Iterator[str]:
    """A request that waits."""
    with Opening(gate, gate.seal_with_clevis(b"x"), "--reason", "<b>update</b>") as asker:
        asker.code()
        yield gate.wait_for_request()


def get(gate: Gate, path: str, *, token: str | None = None) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.get(gate.people + path, headers=headers, timeout=10, allow_redirects=False)


def post(gate: Gate, path: str, body: Any, *, token: str | None = None) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.post(gate.people + path, data=data, headers=headers, timeout=10, allow_redirects=False)


def sign_in(
    gate: Gate, operator: str = "mara", *, nonce: str | None = None, **changes: str
) -> requests.Response:
    nonce = nonce or str(get(gate, "/o/challenge").json()["nonce"])
    facts = {"thumbprint": gate.thumbprint, "origin": gate.people} | changes
    message = session_message(gate=facts["thumbprint"], origin=facts["origin"], nonce=nonce)
    signature = sign(message, key=gate.key(operator), namespace=SESSION_NAMESPACE)
    return post(gate, "/o/session", {"nonce": nonce, "signature": signature})


def test_card_shows_facts_without_a_session_and_no_code(gate: Gate, waiting: str) -> None:
    answer = get(gate, f"/r/{waiting}")

    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "&lt;b&gt;update&lt;/b&gt;" in answer.text
    assert f"unlatch approve {waiting} --gate {gate.people}" in answer.text


def test_code_is_in_no_answer_of_the_gate(gate: Gate) -> None:
    before = {one["id"] for one in gate.pending()}
    with Opening(gate, gate.seal_with_clevis(b"x"), "--reason", "look") as asker:
        code = asker.code()
        token = str(sign_in(gate).json()["token"])
        (newest,) = {one["id"] for one in gate.pending()} - before
        for path in (f"/r/{newest}", "/o/requests", "/o/audit", "/o/checkpoint"):
            assert code not in get(gate, path, token=token).text
        assert gate.process
        assert code not in gate.process.text()
        gate.deny(newest)


def test_card_address_of_the_machines_listener_leads_here(gate: Gate, waiting: str) -> None:
    answer = requests.get(f"{gate.url}/r/{waiting}", timeout=10, allow_redirects=False)

    assert (answer.status_code, answer.headers["Location"]) == (302, f"{gate.people}/r/{waiting}")


@pytest.mark.parametrize("name", ["AAAAAAAA", "x", "%2e%2e", "<script>"])
def test_unknown_card_is_404(gate: Gate, name: str) -> None:
    answer = get(gate, f"/r/{name}")

    assert answer.status_code == 404
    assert "<script>" not in answer.text


@pytest.mark.parametrize(
    "path", ["/o/requests", "/o/requests/AAAAAAAA", "/o/checkpoint", "/o/audit", "/o/chain"]
)
@pytest.mark.parametrize("token", [None, "", "x", "A" * 43])
def test_reading_needs_a_session(gate: Gate, path: str, token: str | None) -> None:
    answer = get(gate, path, token=token)

    assert (answer.status_code, answer.json()["error"]) == (401, "session")


def test_session_reads_and_its_scheme_counts(gate: Gate) -> None:
    token = str(sign_in(gate).json()["token"])

    assert get(gate, "/o/requests", token=token).status_code == 200
    basic = requests.get(f"{gate.people}/o/requests", headers={"Authorization": f"Basic {token}"}, timeout=10)
    assert basic.status_code == 401


def test_challenge_holds_once_for_this_gate_and_address(gate: Gate) -> None:
    nonce = str(get(gate, "/o/challenge").json()["nonce"])

    assert sign_in(gate, nonce=nonce, origin="http://evil.example").status_code == 403
    assert sign_in(gate, nonce=nonce, thumbprint="A" * 43).status_code == 403
    assert sign_in(gate, nonce=nonce).status_code == 200
    assert sign_in(gate, nonce=nonce).status_code == 401
    assert sign_in(gate, nonce="A" * 86).status_code == 401
    assert sign_in(gate, nonce=nonce[:-1]).status_code == 401


def test_stranger_gets_no_session(gate: Gate) -> None:
    nonce = str(get(gate, "/o/challenge").json()["nonce"])
    message = session_message(gate=gate.thumbprint, origin=gate.people, nonce=nonce)
    signature = SshKey().sign(message, namespace=SESSION_NAMESPACE)

    assert post(gate, "/o/session", {"nonce": nonce, "signature": signature}).status_code == 403


def test_operator_who_is_no_administrator_makes_no_keys(gate: Gate) -> None:
    jo, mara = (str(sign_in(gate, name).json()["token"]) for name in ("jo", "mara"))

    assert post(gate, "/o/keys", {}).status_code == 401
    assert post(gate, "/o/keys", {}, token=jo).status_code == 403
    assert post(gate, "/o/keys", {}, token=mara).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/o/requests/AAAAAAAA/decision", {"statement": "YQ", "signature": "x"}), ("/o/enrolments", {"enrolment": "YQ", "signature": "x"}),
        ("/o/enrolments", {"enrolment": base64url.encode(b'{"unlatch":' + b"[" * 900 + b"]" * 900 + b"}"), "signature": "x"}),
        ("/o/session", {"nonce": "YQ", "signature": "x"}), ("/o/session", {}), ("/o/session", []), ("/o/session", b"\xff"),
        ("/o/enrolments", b"{" * 1000), ("/o/requests/AAAAAAAA/decision", {"statement": [], "signature": {}}),
    ],
)  # fmt: skip
def test_strangers_bytes_get_a_refusal_in_json_and_the_gate_lives(gate: Gate, path: str, body: Any) -> None:
    answer = post(gate, path, body)

    assert 400 <= answer.status_code < 500
    assert set(answer.json()) == {"error", "message"}
    assert get(gate, "/o/challenge").status_code == 200


def test_body_over_64_kib_is_413(gate: Gate) -> None:
    assert post(gate, "/o/session", b" " * (64 * 1024 + 1)).status_code == 413


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/o/requests"), ("DELETE", "/o/session"), ("GET", "/o/session"), ("PUT", "/r/A")],
)
def test_other_methods_are_405(gate: Gate, method: str, path: str) -> None:
    assert requests.request(method, gate.people + path, timeout=10).status_code == 405


@pytest.mark.parametrize("path", ["/", "/s/pay/adv", "/s/pay/rec/x", "/docs", "/openapi.json", "/o", "/r/"])
def test_people_listener_answers_no_machine(gate: Gate, path: str) -> None:
    assert get(gate, path).status_code == 404


@pytest.mark.parametrize("path", ["/o/challenge", "/o/requests", "/"])
def test_machines_listener_answers_no_person(gate: Gate, path: str) -> None:
    assert requests.get(gate.url + path, timeout=10).status_code == 404


def test_statement_of_a_stranger_changes_nothing(gate: Gate, waiting: str) -> None:
    statement = b'{"decision":"deny"}'
    signature = SshKey().sign(statement, namespace=NAMESPACE)
    answer = post(
        gate,
        f"/o/requests/{waiting}/decision",
        {"statement": base64url.encode(statement), "signature": signature},
    )

    assert answer.status_code == 403
    assert [one["state"] for one in gate.pending() if one["id"] == waiting] == ["pending"]


@pytest.mark.parametrize("since", ["-1", "x", "99999", "1e3", "٣"])
def test_longer_log_than_there_is_is_no_prefix(gate: Gate, since: str) -> None:
    token = str(sign_in(gate).json()["token"])

    assert get(gate, f"/o/checkpoint?since={since}", token=token).json()["error"] == "shorter"


def test_unknown_request_is_404(gate: Gate) -> None:
    token = str(sign_in(gate).json()["token"])

    assert get(gate, "/o/requests/AAAAAAAA", token=token).status_code == 404


def test_people_are_limited_too_but_others_go_on(gate: Gate) -> None:
    """From another loopback address, so that this file's own requests are not counted."""
    port = int(gate.people.rpartition(":")[2])

    def ask(source: str) -> bytes:
        with socket.create_connection(
            ("127.0.0.1", port), timeout=10, source_address=(source, 0)
        ) as connection:
            connection.sendall(b"GET /r/AAAAAAAA HTTP/1.1\r\nHost: x\r\n\r\n")
            return connection.recv(64)

    eventually("a limit", lambda: True if b" 429 " in ask("127.0.0.9") else None)
    assert b" 404 " in ask("127.0.0.10")
