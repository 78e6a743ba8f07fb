"""Buckets: how often one source may ask."""

from __future__ import annotations

import pytest

from unlatch.gate import limits
from unlatch.gate.asgi import source_of
from unlatch.gate.limits import Buckets, Rate

RATE = Rate(burst=3, per_second=0.5)


def test_burst_is_taken_and_then_one_waits() -> None:
    buckets = Buckets(RATE)

    assert [buckets.take("a", now=0) for _ in range(4)] == [0, 0, 0, 2]


def test_bucket_fills_again_with_time() -> None:
    buckets = Buckets(RATE)
    for _ in range(3):
        buckets.take("a", now=0)

    assert [buckets.take("a", now=second) for second in (1, 2, 2.1)] == [1, 0, 2]


def test_one_source_does_not_use_up_anothers() -> None:
    buckets = Buckets(RATE)
    for _ in range(9):
        buckets.take("a", now=0)

    assert buckets.take("b", now=0) == 0


def test_table_stays_bounded_and_forgets_full_buckets_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BUCKETS", 10)
    buckets = Buckets(RATE)
    for _ in range(4):
        buckets.take("busy", now=0)
    for number in range(50):
        buckets.take(f"source {number}", now=0.01 * number)

    assert len(buckets._left) <= 10


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"), ("fe80::1%eth0", "fe80::/64"), ("unknown", "unknown"),
    ],
)  # fmt: skip
def test_ipv6_host_is_one_source_with_all_its_addresses(address: str, source: str) -> None:
    assert source_of(address) == source
