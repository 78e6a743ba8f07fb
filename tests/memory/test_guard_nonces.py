"""Nonces when the generator fails: guard with one that is stuck, started twice from the same state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from support.guard_client import GuardClient, WorkerClient, certificate_verify, running_guard
from support.guard_site import SCHEMES, GuardSite, variant_program

pytestmark = pytest.mark.memory


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> GuardSite:
    return GuardSite(tmp_path_factory.mktemp("site"))


@contextlib.contextmanager
def stuck(site: GuardSite) -> Iterator[tuple[GuardClient, WorkerClient]]:
    """A guard whose generator always gives the same: like a snapshot that runs again."""
    environment = {"UNLATCH_TEST_VARIANT": "fixed-random"}
    with running_guard(program=Path(variant_program()), environment=environment) as guard:
        guard.settings(reshare_ms=3_600_000)
        site.unlock(guard)
        worker = guard.edge()
        yield guard, worker
        worker.socket.close()


def point(site: GuardSite, worker: WorkerClient, name: str, message: bytes) -> bytes:
    """What the nonce shows in a signature: r, or R."""
    number = list(site.keys).index(name) + 1
    signature = worker.sign(number, SCHEMES[name], message)
    if name == "ed25519":
        return signature[:32]
    key = site.keys[name].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    digest = hashes.SHA256() if name == "p256" else hashes.SHA384()
    key.verify(signature, message, ec.ECDSA(digest))
    return decode_dss_signature(signature)[0].to_bytes(48, "big")


@pytest.mark.parametrize("name", ["p256", "p384", "ed25519"])
def test_stuck_generator_repeats_no_nonce_for_another_message(site: GuardSite, name: str) -> None:
    messages = [certificate_verify() for _ in range(100)]
    with stuck(site) as (_, worker):
        points = {point(site, worker, name, message) for message in messages}

        assert len(points) == len(messages)
        # The control: it is stuck. One message has one nonce, which gives nothing away.
        assert point(site, worker, name, messages[0]) == point(site, worker, name, messages[0])


@pytest.mark.parametrize("name", ["p256", "p384", "ed25519"])
def test_state_that_runs_twice_repeats_no_nonce_for_another_message(site: GuardSite, name: str) -> None:
    one, other = certificate_verify(), certificate_verify()
    with stuck(site) as (_, first), stuck(site) as (_, second):
        assert point(site, first, name, one) == point(site, second, name, one), "the control: same state"
        assert point(site, first, name, one) != point(site, second, name, other)


@pytest.mark.parametrize("name", ["p256", "p384", "ed25519"])
def test_one_message_has_a_new_nonce_each_time_with_a_generator_that_works(
    site: GuardSite, name: str
) -> None:
    with running_guard() as guard:
        site.unlock(guard)
        worker = guard.edge()
        message = certificate_verify()

        assert len({point(site, worker, name, message) for _ in range(100)}) == 100

        worker.socket.close()
