"""Signatures against handshakes and connections: what is an anomaly and what is an ordinary day."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unlatch.proxy.anomaly import (
    FLAG_SECONDS,
    SLACK,
    WINDOW_SECONDS,
    Anomaly,
    Sample,
    Watch,
    judge_connections,
    judge_handshakes,
    passive_opens,
)

START = Sample(at=0.0, edge=7, signatures=1000, finished=900, failed=90, connections=5000)


def judge(before: Sample, after: Sample) -> Anomaly | None:
    return judge_connections(before, after) or judge_handshakes(before, after)


def later(at: float = 2.0, *, signatures: int, finished: int, failed: int = 0, connections: int) -> Sample:
    return Sample(
        at=START.at + at,
        edge=START.edge,
        signatures=START.signatures + signatures,
        finished=START.finished + finished,
        failed=START.failed + failed,
        connections=(START.connections or 0) + connections,
    )


@pytest.mark.parametrize(
    "after",
    [
        later(signatures=0, finished=0, connections=0),
        later(signatures=20_000, finished=20_000, connections=20_000),
        # Every fourth client hangs up in the middle.
        later(signatures=4000, finished=3000, failed=1000, connections=4000),
        # Connections without handshakes, and resumed sessions, need no signature.
        later(signatures=10, finished=10, failed=4000, connections=9000),
        later(signatures=SLACK, finished=0, connections=0),
    ],
)
def test_ordinary_day_is_no_anomaly(after: Sample) -> None:
    assert judge(START, after) is None


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (later(signatures=SLACK + 1, finished=SLACK + 1, connections=0), "connections that the kernel took"),
        (later(signatures=SLACK + 1, finished=0, connections=900), "handshakes that edge knows of"),
        (later(signatures=900, finished=100, failed=800, connections=900), "never finished"),
    ],
)
def test_each_way_of_drifting_apart_is_one(after: Sample, reason: str) -> None:
    found = judge(START, after)

    assert found is not None
    assert reason in found.reason


def test_kernel_that_does_not_count_leaves_the_other_two() -> None:
    after = later(signatures=900, finished=900, connections=0)

    assert judge(replace(START, connections=None), after) is None
    assert judge(START, replace(after, connections=None, finished=START.finished)) is not None


def test_window_slides_and_a_told_anomaly_is_not_told_twice() -> None:
    watch = Watch()
    watch.note(START)
    slow = [
        watch.note(later(at, signatures=int(at), finished=0, connections=int(at))) for at in range(1, 1000, 2)
    ]
    assert slow == [None] * 500

    now = 1000.0
    burst = later(now, signatures=1000 + 2 * SLACK, finished=0, connections=10**6)
    assert watch.note(burst) is not None
    assert watch.note(replace(burst, at=burst.at + 2)) is None
    assert watch.count == 1
    assert "anomaly" in watch.told(burst.at + 5)[0]
    assert watch.told(burst.at + FLAG_SECONDS + 1) == []
    assert WINDOW_SECONDS < FLAG_SECONDS


def test_other_edge_or_other_guard_begins_a_new_window() -> None:
    watch = Watch()
    watch.note(START)

    assert watch.note(replace(later(signatures=500, finished=-900, connections=500), edge=8)) is None
    assert watch.note(Sample(3.0, 8, 0, 0, 0, 5000)) is None
    assert watch.told(4.0) == []


def test_edge_that_is_started_again_does_not_hide_from_the_kernels_count() -> None:
    watch = Watch()
    watch.note(START)

    found = watch.note(replace(later(signatures=500, finished=-900, connections=0), edge=8))
    assert found is not None
    assert "kernel" in found.reason


def test_kernels_count_is_read_from_its_table() -> None:
    text = "Ip: Forwarding\nIp: 1\nTcp: RtoAlgorithm ActiveOpens PassiveOpens\nTcp: 1 22 33\n"

    assert passive_opens(text) == 33
    for broken in ("", "Tcp: ActiveOpens\nTcp: 1\n", "Tcp: PassiveOpens\nTcp: many\n"):
        with pytest.raises(ValueError):
            passive_opens(broken)
