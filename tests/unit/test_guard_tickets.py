"""Ticket keys that a fleet shares: sealed once, different for each node, wound on by the hour."""

import hashlib
import hmac
import os
import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.guard_client import (
    ControlFault,
    GuardClient,
    RefusedByGuard,
    bundle,
    running_guard,
    seal,
    ticket_secret,
    token_secret,
)

KEY = os.urandom(32)
CHAIN = os.urandom(32)
CONFIGURATION = {"certificates": [], "inject": [], "tickets": {"where": "tickets", "secret": "fleet"}}
TOO_MANY, TICKET = 8, 11


def hour() -> int:
    return int(time.time()) // 3600


def sealed(epoch: int) -> bytes:
    return seal(bundle({"fleet": ticket_secret(CHAIN, epoch), "t": token_secret("token")}), KEY)


@pytest.fixture
def started() -> int:
    """The epoch of sealing. Waits where the hour ends within the test."""
    left = 3600 - time.time() % 3600
    if left < 5:
        time.sleep(left + 0.1)
    return hour() - 100


@pytest.fixture
def fleet(started: int) -> Iterator[tuple[GuardClient, GuardClient]]:
    """Two hosts that opened one bundle."""
    with running_guard() as one, running_guard() as other:
        for guard in (one, other):
            guard.load(sealed(started), KEY)
            guard.configure(CONFIGURATION)
        yield one, other


def expand(secret: bytes, info: bytes) -> bytes:
    """HKDF-Expand with SHA-256 to 32 bytes."""
    return hmac.digest(secret, info + b"\1", "sha256")


def node_keys(epoch: int, node: str) -> tuple[bytes, bytes]:
    """Key of the epoch before now and key of now, as docs/protocol.md says, written a second time."""
    chain, roots = CHAIN, [b"", b""]
    for _ in range(hour() - epoch + 1):
        roots = [roots[1], expand(chain, b"root")]
        chain = expand(chain, b"next")
    tag = hashlib.sha256(node.encode()).digest()[:16]
    before, now = (expand(root, b"node " + tag) for root in roots)
    return before, now


def test_sealed_chain_is_wound_on_to_now(fleet: tuple[GuardClient, GuardClient], started: int) -> None:
    worker = fleet[0].edge(node="a")

    epoch, left, before, now = worker.ticket_keys()

    assert (epoch, (before, now)) == (hour(), node_keys(started, "a"))
    assert abs(left - (3600 - time.time() % 3600)) < 3
    worker.socket.close()


def test_each_node_has_its_own_keys(fleet: tuple[GuardClient, GuardClient]) -> None:
    workers = [guard.edge(node=node) for guard in fleet for node in ("a", "b")]
    keys = [worker.ticket_keys()[2:] for worker in workers]

    assert keys[0] == keys[2]
    assert keys[1] == keys[3]
    assert not set(keys[0]) & set(keys[1])
    for worker in workers:
        worker.socket.close()


def test_ticket_of_another_node_is_opened_and_counted(fleet: tuple[GuardClient, GuardClient]) -> None:
    giver, taker = fleet[0].edge(node="a"), fleet[1].edge(node="b")
    epoch, _, before, now = giver.ticket_keys()
    nonce = os.urandom(12)

    for at, key in ((epoch, now), (epoch - 1, before)):
        ticket = AESGCM(key).encrypt(nonce, b"the session", b"listener")
        assert taker.open_ticket("a", at, nonce, b"listener", ticket) == b"the session"

    assert fleet[1].status()["foreign_tickets"] == 2
    giver.socket.close()
    taker.socket.close()


def test_ticket_that_does_not_fit_is_refused_and_counted(fleet: tuple[GuardClient, GuardClient]) -> None:
    worker = fleet[0].edge(node="a")
    epoch, _, _, now = worker.ticket_keys()
    nonce = os.urandom(12)
    ticket = AESGCM(now).encrypt(nonce, b"the session", b"listener")
    wrong = [
        ("b", epoch, b"listener", ticket),
        ("a", epoch - 1, b"listener", ticket),
        ("a", epoch - 2, b"listener", ticket),
        ("a", epoch + 1, b"listener", ticket),
        ("a", 2**64 - 1, b"listener", ticket),
        ("a", epoch, b"another", ticket),
        ("a", epoch, b"listener", ticket[:-1]),
        ("a", epoch, b"listener", b""),
    ]
    for node, at, additional_data, data in wrong:
        with pytest.raises(RefusedByGuard) as refused:
            worker.open_ticket(node, at, nonce, additional_data, data)
        assert refused.value.code == TICKET

    assert fleet[0].status()["refusals"] == {"ticket": len(wrong)}
    worker.socket.close()


def test_opening_counts_against_the_rate(fleet: tuple[GuardClient, GuardClient]) -> None:
    worker = fleet[0].edge(rate=1)
    with pytest.raises(RefusedByGuard) as first:
        worker.open_ticket("a", 1, bytes(12), b"", b"")
    with pytest.raises(RefusedByGuard) as second:
        worker.open_ticket("a", 1, bytes(12), b"", b"")

    assert (first.value.code, second.value.code) == (TICKET, TOO_MANY)
    worker.socket.close()


def test_without_a_named_secret_keys_are_random_and_count_from_the_start(started: int) -> None:
    with running_guard() as guard:
        guard.load(sealed(started), KEY)
        guard.configure({"certificates": [], "inject": []})
        worker = guard.edge(node="a")

        epoch, left, *keys = worker.ticket_keys()

        assert (epoch, left > 3590) == (0, True)
        assert not set(keys) & set(node_keys(started, "a"))
        worker.socket.close()


def test_only_a_ticket_secret_can_be_named(started: int) -> None:
    with running_guard() as guard:
        guard.load(sealed(started), KEY)
        for name in ("t", "nobody"):
            with pytest.raises(ControlFault, match="no ticket secret") as refused:
                guard.configure(CONFIGURATION | {"tickets": {"where": "tickets", "secret": name}})
            assert (refused.value.kind, refused.value.where) == ("key", "tickets")
            assert "fleet" in refused.value.hint


@pytest.mark.parametrize(
    "secret",
    [
        ticket_secret(CHAIN[:31], 1),
        ticket_secret(CHAIN, 1) | {"use": {"mode": "shared"}},
        ticket_secret(CHAIN, 1) | {"use": None},
        ticket_secret(CHAIN, 1) | {"epoch": -1},
        ticket_secret(CHAIN, 1),
    ],
    ids=["short", "mode", "no rules", "negative", "decades ago"],
)
def test_ticket_secret_that_cannot_be_right_is_refused(secret: dict[str, object]) -> None:
    with running_guard() as guard:
        with pytest.raises(ControlFault) as refused:
            guard.load(seal(bundle({"fleet": secret}), KEY), KEY)

        assert refused.value.kind == "payload"
        assert guard.status()["locked"]
