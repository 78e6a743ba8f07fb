"""Keyholder under any order of questions, clocks and restarts: a point is answered once, for enough people, or never."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.gate_keyholder import ORIGIN, PEOPLE, Case, FakeDecider
from support.host_keys import HostKeyInMemory

from unlatch.gate.enrolment import AddHost, Suspend, SuspendHost
from unlatch.gate.keyholder import Keyholder

# Which request, who, what, when, and the statement as a question carries it.
Signed = tuple[int, str, str, float, dict[str, Any]]
PEOPLE_NAMES = ("mara", "jo", "kim")


class Requests(RuleBasedStateMachine):
    """Two requests of one workload that needs two of three people; the second one is a host's, which may be suspended."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.now = 1_800_000_000.0
        self.decider = FakeDecider(Path(self._folder.name) / "gate", operators=("jo", "kim"), quorum=2)
        self.counter = 0
        self.restart()
        self.decider.found(self.ask)
        self.cases: list[Case] = []
        self.signed: list[Signed] = []
        self.answers = [0, 0]
        self.denied = [False, False]
        self.suspended: set[str] = set()
        self.lost = [False, False]

    def ask(self, question: str, **fields: Any) -> dict[str, Any]:
        return dict(self.keyholder.answer({"do": question, **fields}))

    def random_bytes(self, size: int) -> bytes:
        self.counter += 1
        return self.counter.to_bytes(size, "big")

    @initialize()
    def receive(self) -> None:
        host = HostKeyInMemory()
        self.decider.enrol(AddHost(name="web1", key=str(host.public), protection="tpm"))
        self.cases = [self.decider.receive(), self.decider.receive(host=host)]

    @rule()
    def restart(self) -> None:
        self.keyholder = Keyholder(
            self.decider.folder / "keyholder", origin=ORIGIN, people=PEOPLE, now=lambda: self.now, random_bytes=self.random_bytes
        )  # fmt: skip

    @rule(seconds=st.sampled_from([1, 50, 400]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(
        number=st.integers(0, 1),
        who=st.sampled_from(PEOPLE_NAMES),
        decision=st.sampled_from(["approve", "approve", "deny"]),
    )
    def sign(self, number: int, who: str, decision: str) -> None:
        statement = self.decider.sign(self.cases[number], by=who, decision=decision)
        self.signed.append((number, who, decision, self.now, statement))

    @rule(number=st.integers(0, 1), pair=st.sampled_from([("mara", "jo"), ("jo", "kim"), ("kim", "mara")]))
    def sign_by_two_and_ask(self, number: int, pair: tuple[str, str]) -> None:
        for who in pair:
            self.sign(number=number, who=who, decision="approve")
        self.ask_with_what_counts(number=number, question="answer")

    @precondition(lambda self: len(self.suspended) == 0)
    @rule(who=st.sampled_from(["jo", "kim"]))
    def suspend(self, who: str) -> None:
        self.decider.enrol(Suspend(name=who))
        self.suspended.add(who)

    @precondition(lambda self: len(self.signed) > 2)
    @rule()
    def suspend_host(self) -> None:
        self.decider.enrol(SuspendHost(name="web1"))
        self.lost[1] = True

    @rule(
        number=st.integers(0, 1),
        picks=st.sets(st.integers(0, 30), max_size=5),
        question=st.sampled_from(["judge", "answer"]),
    )
    def ask_about(self, number: int, picks: set[int], question: str) -> None:
        """A question with any statements, of this request or the other, fresh or old."""
        self._ask_with(
            number, [self.signed[pick] for pick in sorted(picks) if pick < len(self.signed)], question
        )

    @rule(number=st.integers(0, 1), question=st.sampled_from(["judge", "answer"]))
    def ask_with_what_counts(self, number: int, question: str) -> None:
        """The question of an honest decider."""
        fresh = [
            one
            for one in self.signed
            if one[0] == number and self.now - one[3] <= 900 and one[1] not in self.suspended
        ]
        self._ask_with(number, list({one[1]: one for one in fresh}.values()), question)

    def _ask_with(self, number: int, chosen: list[Signed], question: str) -> None:
        statements = [statement for *_, statement in chosen]
        case = self.cases[number]
        answer = (
            self.decider.answer(case, *statements)
            if question == "answer"
            else self.decider.judge(case, *statements)
        )
        fits = all(
            about == number and self.now - at <= 900 and who not in self.suspended
            for about, who, _, at, _ in chosen
        )
        denies = any(decision == "deny" for _, _, decision, _, _ in chosen)
        approvers = {who for _, who, decision, _, _ in chosen if decision == "approve"}
        is_open = self.now < case.receipt.expires and not self.denied[number] and not self.answers[number]
        is_open = is_open and not self.lost[number]
        if fits and denies and is_open:
            self.denied[number] = True
        may_answer = question == "answer" and fits and not denies and len(approvers) >= 2 and is_open

        assert ("ok" in answer and "answer" in answer["ok"]) == may_answer
        if may_answer:
            self.answers[number] += 1

    @invariant()
    def nothing_is_answered_twice_or_after_a_denial(self) -> None:
        for count, denied in zip(self.answers, self.denied, strict=True):
            assert count <= 1
            assert not (count and denied)

    def teardown(self) -> None:
        self._folder.cleanup()


Requests.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestRequests = Requests.TestCase
