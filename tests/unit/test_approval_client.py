"""The asker against a gate in memory: what it believes, what it waits for, and how each end is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.receipts import ReceiptKey

from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.client import Change, Event, GateTransport, Waiting
from unlatch.bootstrap.approval.receipt import Receipt
from unlatch.bootstrap.http import HttpReply
from unlatch.errors import (
    BusyError,
    DeniedError,
    PendingError,
    PolicyRefusedError,
    UndecidedError,
    UnknownKeyError,
    UnlatchError,
    UnreachableError,
    UntrustedGateError,
)

NOW, BASE = 1_800_000_000, "https://gate.example"
URL, KID, POINT = f"{BASE}/s/pay", base64url.digest(b"kid"), base64url.digest(b"point")
KEY = ReceiptKey()
CLAIMS = Claims(workload="x", host="h1", reason="start")
ANSWER = HttpReply(200, b'{"kty":"EC"}', {"unlatch-approved-by": "mara"})

Step = HttpReply | UnlatchError


def reply(status: int, body: object = b"", **headers: str) -> HttpReply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpReply(status, data, {name.replace("_", "-"): value for name, value in headers.items()})


def pending(version: int = 1, *names: str) -> HttpReply:
    return reply(
        202,
        {"state": "pending", "approvals": list(names), "needed": 2, "expires": NOW + 600, "version": version},
    )


@dataclass
class FakeGate:
    """Answers a POST with a receipt and polls with what the test lists; time goes only by sleeping."""

    polls: list[Step] = field(default_factory=list)
    posts: list[Step] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    key: ReceiptKey = KEY
    clock: float = 0.0
    sent: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sleeps: list[float] = field(default_factory=list)
    poll_seconds: float = 0.0

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, seconds: float | None
    ) -> HttpReply:
        self.sent.append((method, url, dict(headers)))
        assert seconds
        if method == "POST":
            step = self.posts.pop(0) if self.posts else self.receipt(headers)
        else:
            self.clock += self.poll_seconds
            step = self.polls.pop(0) if self.polls else pending()
        if isinstance(step, UnlatchError):
            raise step
        return step

    def receipt(self, headers: Mapping[str, str]) -> HttpReply:
        claims = base64url.decode(headers["Unlatch-Claims"])
        right = {"kid": KID, "point": POINT, "claims": base64url.digest(claims)}
        receipt: Receipt = self.key.receipt(base=BASE, now=NOW, **right | self.facts)
        return reply(202, self.key.sign(receipt))

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.sleeps.append(seconds)
        self.clock += seconds

    def ask(self, url: str = URL, **changes: Any) -> bytes:
        facts: dict[str, Any] = {
            "claims": CLAIMS, "gates": None, "wait": 600.0, "now": lambda: NOW + self.clock, "monotonic": lambda: self.clock,
            "sleep": self.sleep, "uniform": lambda most: most / 2, "on_event": self.events.append, "http": self,
        } | changes  # fmt: skip
        return GateTransport(**facts).recover(
            url=url, kid=KID, request=b"{}", thumbprint=POINT, signing_keys=[KEY.public]
        )


def test_approved_request_gives_the_answer() -> None:
    gate = FakeGate(polls=[pending(1), pending(2, "jo"), ANSWER])

    assert gate.ask() == b'{"kty":"EC"}'
    assert [type(event) for event in gate.events] == [Waiting, Change, Change]
    assert [event.text for event in gate.events if isinstance(event, Change)] == [
        "1 of 2 approved (jo)",
        "opened by mara after 0 s",
    ]


def test_request_carries_claims_under_the_addresss_workload() -> None:
    gate = FakeGate(polls=[ANSWER])
    gate.ask()
    method, url, headers = gate.sent[0]

    assert (method, url) == ("POST", f"{URL}/rec/{KID}")
    assert headers["Accept"] == "application/unlatch-receipt+jwt"
    assert Claims.parse(base64url.decode(headers["Unlatch-Claims"])) == CLAIMS.for_workload("pay")


def test_code_is_told_once_and_kept_out_of_reprs() -> None:
    gate = FakeGate(polls=[ANSWER])
    gate.ask()
    waiting = gate.events[0]
    assert isinstance(waiting, Waiting)
    assert waiting.code is not None

    assert waiting.code not in repr(waiting)
    assert waiting.card == f"{BASE}/r/7QK2ABCD"


@pytest.mark.parametrize(
    "facts",
    [
        {"point": base64url.digest(b"x")}, {"kid": base64url.digest(b"x")}, {"workload": "other"}, {"claims": None},
        {"claims": base64url.digest(b"x")}, {"expires": NOW}, {"poll": "https://evil.example/s/pay/wait/t"},
        {"card": "https://evil.example/r/A"},
    ],
    ids=str,
)  # fmt: skip
def test_receipt_for_something_else_ends_the_asking(facts: dict[str, Any]) -> None:
    gate = FakeGate(facts=facts)
    with pytest.raises(UntrustedGateError):
        gate.ask()
    assert gate.events == []
    assert len(gate.sent) == 1


def test_receipt_of_another_gate_ends_the_asking() -> None:
    gate = FakeGate(key=ReceiptKey())
    with pytest.raises(UntrustedGateError, match="not signed by a pinned key"):
        gate.ask()


def test_gate_that_the_configuration_does_not_name_is_not_asked() -> None:
    gate = FakeGate()
    with pytest.raises(UntrustedGateError, match="does not name"):
        gate.ask(gates=frozenset({base64url.digest(b"another")}))
    assert gate.sent == []


@pytest.mark.parametrize(
    ("step", "error", "words"),
    [
        (reply(403, {"error": "denied", "by": "mara"}), DeniedError, "denied by mara"),
        (reply(403, {"error": "policy", "message": "no"}), PolicyRefusedError, "no"),
        (reply(410, {"error": "expired"}), UndecidedError, "expired"),
        (reply(410, {"error": "answered"}), UndecidedError, "answered before"),
        (reply(404), UndecidedError, "no such request any more"),
        (reply(403, b"<html>"), UntrustedGateError, "HTML"),
        (reply(403, {"error": "other"}), UntrustedGateError, "no gate gives"),
        (reply(200, b"<html>"), UntrustedGateError, "HTML"),
        (reply(200, {"kty": "oct"}), UntrustedGateError, "no point"),
        (reply(202, b"<html>"), UntrustedGateError, "HTML"),
        (reply(202, {"state": "pending"}), UntrustedGateError, "state"),
        (reply(204), UntrustedGateError, "204"),
        (reply(302), UnreachableError, "redirect"),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)  # fmt: skip
def test_each_end_of_a_poll_has_its_error(step: HttpReply, error: type[UnlatchError], words: str) -> None:
    with pytest.raises(error, match=words):
        FakeGate(polls=[pending(), step]).ask()


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (reply(404), UnknownKeyError), (reply(400), UntrustedGateError), (reply(403, {"error": "policy"}), PolicyRefusedError),
        (reply(403, {"error": "denied"}), DeniedError), (reply(410, {"error": "answered"}), UndecidedError),
        (reply(500), UnreachableError), (reply(302), UnreachableError), (reply(202, b"<html>"), UntrustedGateError),
        (reply(201), UntrustedGateError),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)  # fmt: skip
def test_each_end_of_the_first_request_has_its_error(step: HttpReply, error: type[UnlatchError]) -> None:
    with pytest.raises(error):
        FakeGate(posts=[step]).ask()


def test_lost_link_comes_back_with_the_same_request() -> None:
    gate = FakeGate(polls=[pending(), UnreachableError("gone"), UnreachableError("gone"), ANSWER])

    assert gate.ask() == ANSWER.body
    assert [method for method, _, _ in gate.sent].count("POST") == 1
    assert sum("request kept" in event.text for event in gate.events if isinstance(event, Change)) == 2


def test_restarting_gate_is_waited_for() -> None:
    gate = FakeGate(polls=[reply(503), reply(502), ANSWER])

    assert gate.ask() == ANSWER.body


def test_gate_that_never_answers_is_given_up_after_four_tries() -> None:
    gate = FakeGate(posts=[UnreachableError("down")] * 9)
    with pytest.raises(UnreachableError):
        gate.ask()
    assert len(gate.sent) == 4


def test_busy_gate_is_asked_again_when_it_says() -> None:
    gate = FakeGate(posts=[reply(429, {"error": "busy"}, retry_after="7")], polls=[ANSWER])
    gate.ask()

    assert gate.sleeps[0] == 7


def test_gate_that_stays_busy_is_given_up_when_the_deadline_comes_first() -> None:
    gate = FakeGate(posts=[reply(429, retry_after="100")] * 99)
    with pytest.raises(BusyError):
        gate.ask(wait=250.0)
    assert gate.clock == 200.0


def test_nobody_deciding_ends_at_the_deadline() -> None:
    gate = FakeGate(polls=[pending(number) for number in range(1000)], poll_seconds=25.0)
    with pytest.raises(UndecidedError, match="within 600 s"):
        gate.ask()
    assert 600 <= gate.clock <= 630


def test_gate_that_answers_polls_at_once_is_not_hammered() -> None:
    gate = FakeGate(polls=[pending(1) for _ in range(100_000)])
    with pytest.raises(UndecidedError):
        gate.ask(wait=60.0)
    assert len(gate.sent) < 300


def test_asking_without_waiting_ends_as_pending() -> None:
    gate = FakeGate()
    with pytest.raises(PendingError):
        gate.ask(no_wait=True)
    assert isinstance(gate.events[0], Waiting)
    assert len(gate.sent) == 1


def test_words_of_the_gate_cannot_move_the_cursor() -> None:
    gate = FakeGate(polls=[pending(2, "ma\x1b[2Jra\n"), reply(403, {"error": "denied", "by": "\x1b[31mjo"})])
    with pytest.raises(DeniedError) as caught:
        gate.ask()
    texts = [event.text for event in gate.events if isinstance(event, Change)] + [str(caught.value)]
    assert all(text.isprintable() for text in texts)


def test_password_in_the_address_goes_to_the_gate_and_nowhere_else() -> None:
    gate = FakeGate(polls=[reply(403, {"error": "denied", "by": "mara"})])
    with pytest.raises(DeniedError) as caught:
        gate.ask(url="https://user:secret@gate.example/s/pay")
    assert gate.sent[1][1].startswith("https://user:secret@gate.example/s/pay/wait/token?")
    assert "secret" not in str(caught.value) + repr(gate.events)


@pytest.mark.parametrize(
    ("claims", "url"), [(CLAIMS, "https://tang.example"), (None, URL)], ids=["plain Tang", "asked as a stock client"]
)  # fmt: skip
def test_plain_tang_is_asked_without_claims(claims: Claims | None, url: str) -> None:
    gate = FakeGate(posts=[ANSWER])

    assert gate.ask(url=url, claims=claims) == ANSWER.body
    assert gate.sent == [("POST", f"{url}/rec/{KID}", {"Content-Type": "application/jwk+json"})]


@pytest.mark.parametrize(
    ("step", "error"),
    [(reply(404), UnknownKeyError), (reply(403), PolicyRefusedError), (reply(503), UndecidedError), (reply(202), UntrustedGateError), (reply(500), UnreachableError)],
    ids=lambda value: str(getattr(value, "status", "")),
)  # fmt: skip
def test_each_end_of_a_stock_request_has_its_error(step: HttpReply, error: type[UnlatchError]) -> None:
    with pytest.raises(error):
        FakeGate(posts=[step]).ask(claims=None)


def test_pauses_grow_and_are_bounded() -> None:
    polls: list[Step] = [UnreachableError("gone")] * 12
    gate = FakeGate(polls=[*polls, ANSWER])
    gate.ask(uniform=lambda most: most)

    assert gate.sleeps[:6] == [2, 4, 8, 16, 30, 30]
    assert max(gate.sleeps) == 30
