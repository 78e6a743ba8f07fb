"""An asker with a host key, against a gate in memory: challenged, believed, and never kept from asking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from support.host_keys import HostKeyInMemory
from support.receipts import ReceiptKey

from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.client import Change, Event, GateTransport
from unlatch.bootstrap.http import HttpReply
from unlatch.bootstrap.identity import introduction
from unlatch.bootstrap.identity.proof import Asking, Proof
from unlatch.errors import UnavailableError, UnreachableError, UntrustedGateError

NOW, BASE = 1_800_000_000, "https://gate.example"
KID, POINT = base64url.digest(b"kid"), base64url.digest(b"point")
GATE = ReceiptKey()
CHALLENGES = [base64url.encode(bytes([number]) * 72) for number in range(9)]
CHALLENGED = HttpReply(401, b"{}", {"unlatch-challenge": CHALLENGES[0]})


@dataclass
class FakeGate:
    """Answers posts with what the test lists, then with a receipt for `identity`; every poll with the answer."""

    posts: list[HttpReply] = field(default_factory=list)
    identity: str | None = None
    sent: list[dict[str, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    clock: float = 0.0

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, seconds: float | None
    ) -> HttpReply:
        if method != "POST":
            return HttpReply(200, b'{"kty":"EC"}', {})
        self.sent.append(dict(headers))
        if self.posts:
            return self.posts.pop(0)
        claims = base64url.digest(base64url.decode(headers["Unlatch-Claims"]))
        receipt = GATE.receipt(
            base=BASE, now=NOW, kid=KID, point=POINT, claims=claims, identity=self.identity
        )
        return HttpReply(202, GATE.sign(receipt), {})

    def ask(self, host: HostKeyInMemory | None, *, claims: Claims | None = None) -> bytes:
        def sleep(seconds: float) -> None:
            self.clock += seconds

        transport = GateTransport(
            claims=claims or Claims(workload="x", host="h1"), gates=None, wait=600.0, now=lambda: NOW,
            monotonic=lambda: self.clock, sleep=sleep, uniform=lambda limit: limit, on_event=self.events.append,
            http=self, host=host,
        )  # fmt: skip
        return transport.recover(
            url=f"{BASE}/s/pay", kid=KID, request=b"{}", thumbprint=POINT, signing_keys=[GATE.public]
        )

    @property
    def said(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Change)]


@pytest.fixture
def host() -> HostKeyInMemory:
    return HostKeyInMemory()


def proof_in(headers: Mapping[str, str]) -> Proof:
    return Proof.parse(headers["Unlatch-Identity"])


def test_host_names_its_key_and_signs_the_challenge(host: HostKeyInMemory) -> None:
    gate = FakeGate([CHALLENGED], identity=f"tpm web1 {host.public.thumbprint}")
    gate.ask(host)
    first, second = map(proof_in, gate.sent)
    claims = base64url.decode(gate.sent[1]["Unlatch-Claims"])

    assert first == Proof(host.public)
    assert second.challenge == CHALLENGES[0]
    second.verify(Asking("pay", KID, POINT, claims))


def test_asker_without_a_key_sends_nothing_new(host: HostKeyInMemory) -> None:
    gate = FakeGate()
    gate.ask(None)

    assert ["Unlatch-Identity" in headers for headers in gate.sent] == [False]


def test_gate_that_knows_no_identities_is_asked_once(host: HostKeyInMemory) -> None:
    gate = FakeGate()
    gate.ask(host)

    assert len(gate.sent) == 1
    assert host.signed == []


def test_challenge_of_a_busy_gate_is_signed_for_the_next_try(host: HostKeyInMemory) -> None:
    busy = HttpReply(429, b"{}", {"unlatch-challenge": CHALLENGES[1], "retry-after": "7"})
    gate = FakeGate([busy])
    gate.ask(host)

    assert [proof_in(headers).challenge for headers in gate.sent] == [None, CHALLENGES[1]]
    assert gate.clock == 7


def test_newer_challenge_is_signed_anew(host: HostKeyInMemory) -> None:
    gate = FakeGate([HttpReply(401, b"{}", {"unlatch-challenge": one}) for one in CHALLENGES[:2]])
    gate.ask(host)

    assert [proof_in(headers).challenge for headers in gate.sent] == [None, *CHALLENGES[:2]]


def test_gate_that_takes_none_of_its_challenges_is_given_up(host: HostKeyInMemory) -> None:
    gate = FakeGate([HttpReply(401, b"{}", {"unlatch-challenge": one}) for one in CHALLENGES])
    with pytest.raises(UnreachableError, match="its own challenge"):
        gate.ask(host)
    assert len(gate.sent) == introduction.MAX_CHALLENGES + 1


@pytest.mark.parametrize("challenge", [None, "", "x", "A" * 97, "!" * 96])
def test_refusal_that_is_no_challenge_is_no_gate_s(host: HostKeyInMemory, challenge: str | None) -> None:
    headers = {} if challenge is None else {"unlatch-challenge": challenge}
    with pytest.raises(UntrustedGateError, match="401"):
        FakeGate([HttpReply(401, b"{}", headers)]).ask(host)
    assert host.signed == []


def test_asker_without_a_key_takes_no_challenge() -> None:
    with pytest.raises(UntrustedGateError, match="401"):
        FakeGate([CHALLENGED]).ask(None)


def test_key_that_does_not_work_keeps_nobody_from_asking() -> None:
    broken = HostKeyInMemory(failure=UnavailableError("the TPM does not answer"))
    gate = FakeGate([CHALLENGED])
    gate.ask(broken)

    assert "Unlatch-Identity" not in gate.sent[1]
    assert "asking without the host key: the TPM does not answer" in gate.said


def test_key_that_hangs_keeps_nobody_from_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release = threading.Event()

    class Hanging(HostKeyInMemory):
        def sign(self, message: bytes) -> bytes:
            release.wait(30)
            return super().sign(message)

    monkeypatch.setattr(introduction, "SIGN_SECONDS", 0.05)
    gate = FakeGate([CHALLENGED])
    gate.ask(Hanging())
    release.set()

    assert "Unlatch-Identity" not in gate.sent[1]
    assert any("no signature within" in text for text in gate.said)


def test_receipt_that_names_another_host_ends_the_asking(host: HostKeyInMemory) -> None:
    other = HostKeyInMemory()
    with pytest.raises(UntrustedGateError, match="another host"):
        FakeGate([CHALLENGED], identity=f"tpm web2 {other.public.thumbprint}").ask(host)


def test_receipt_that_names_a_host_which_did_not_ask_ends_the_asking(host: HostKeyInMemory) -> None:
    with pytest.raises(UntrustedGateError, match="another host"):
        FakeGate(identity=f"tpm web1 {host.public.thumbprint}").ask(None)
