"""What is said of fallbacks, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from unlatch.errors import ConfigError
from unlatch.proxy import fallback, keys_report
from unlatch.proxy.wiring import KeyInfo

NAME = "pkcs11:token=prod;object=site"


def key(*, active: bool, signatures: int, state: str = "ready") -> dict[str, Any]:
    return {
        "name": NAME,
        "state": state,
        "fallback": {"key": "soft", "active": active, "signatures": signatures},
    }


def test_changes_are_told_once() -> None:
    watch = fallback.Watch()
    looks = [(False, 0), (True, 1), (True, 9), (False, 9), (False, 9)]
    told = [[event for event, _ in watch.changes([key(active=a, signatures=n)])] for a, n in looks]

    assert told == [[], ["fallback in use"], [], ["fallback over"], []]


def test_what_came_and_went_between_two_looks_is_told() -> None:
    watch = fallback.Watch()
    list(watch.changes([key(active=False, signatures=3)]))
    events = [event for event, _ in watch.changes([key(active=False, signatures=4)])]

    assert events == ["fallback in use", "fallback over"]


def test_keys_without_fallback_are_no_news() -> None:
    assert list(fallback.Watch().changes([{"name": "tls"}])) == []
    assert list(fallback.weaker([{"name": "tls"}])) == []


def test_weaker_names_key_reason_and_stand_in() -> None:
    assert list(fallback.weaker([key(active=False, signatures=5)])) == []
    (lost,) = fallback.weaker([key(active=True, signatures=5, state="lost: its process is gone")])
    (refused,) = fallback.weaker([key(active=True, signatures=5)])

    assert lost == f"key {NAME} does not sign (lost: its process is gone): sealed:soft signs in its place"
    assert "it refused, or did not answer" in refused


def test_fallback_must_be_for_every_name() -> None:
    fallback.check_names(hardware=["a.example"], fallback=["a.example", "b.example"], where="w")
    with pytest.raises(ConfigError, match=r"not for b\.example \(w\)"):
        fallback.check_names(hardware=["a.example", "b.example"], fallback=["a.example"], where="w")


@pytest.mark.parametrize(
    ("state", "told", "expected"),
    [("ready", False, False), ("ready", True, True), ("lost", False, True), ("need-pin", True, True)],
)
def test_fallback_is_active_while_edge_or_guard_says_so(state: str, told: bool, expected: bool) -> None:
    guard = {
        "custodians": [
            {
                "hardware": "pkcs11:token=prod",
                "state": state,
                "reason": "",
                "keys": [{"name": NAME, "missing": None}],
            }
        ]
    }
    edge = {"keys": {"32768": {"signatures": 2, "failed": 1, "p50_us": 500, "p99_us": 900,
                               "fallback": {"active": told, "signatures": 4}}}}  # fmt: skip
    keys = [KeyInfo(32768, NAME, "ecdsa-p256"), KeyInfo(1, "soft", "ed25519")]
    hard, soft = keys_report.describe(keys, edge=edge, guard=guard, fallbacks={NAME: "soft"})

    assert hard["fallback"] == {"key": "soft", "active": expected, "signatures": 4}
    assert (hard["p50_ms"], hard["p99_ms"], hard["failed"]) == (0.5, 0.9, 1)
    assert (soft["signatures"], "fallback" in soft, "state" in soft) == (0, False, False)
