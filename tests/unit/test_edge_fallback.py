"""A declared fallback signs while the hardware does not, no handshake is lost for it, and the hardware comes back."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from support.edge_bench import FALLBACK, Bench
from support.edge_process import Program, listening_sockets
from support.edge_signer import Slow
from support.edge_upstream import Upstream

NAMES = [("p256", ["pay.example"]), ("p256", ["slow.example"])]
SLOW = "slow.example"
BUSY, UNREACHABLE, REFUSED = 12, 13, 14
BOTH = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@contextlib.contextmanager
def bench(slow: Slow, *, kind: str = "ed25519", has_fallback: bool = True) -> Iterator[Bench]:
    with (
        Upstream() as app,
        Bench(
            servers={"app": [app.address]},
            certificates=NAMES,
            slow=(2,),
            fallback=(2, kind) if has_fallback else None,
        ) as one,
    ):
        one.signer.slow[2] = slow
        yield one


def presented(one: Bench, *, context: ssl.SSLContext | None = None) -> str:
    """Which key a client gets: `hardware` or `fallback`."""
    with one.connect(SLOW, context=context) as client:
        der = client.tls.getpeercert(binary_form=True)
    assert der is not None
    key = x509.load_der_x509_certificate(der).public_key()
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "fallback"
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return "hardware"


def told(one: Bench) -> dict[str, Any]:
    found: dict[str, Any] = one.program.status()["keys"]["2"]["fallback"]
    return found


@pytest.mark.parametrize("refusal", [UNREACHABLE, REFUSED])
@pytest.mark.parametrize("version", BOTH)
def test_no_handshake_fails_when_the_hardware_goes(version: ssl.TLSVersion, refusal: int) -> None:
    with bench(Slow()) as one:
        context = one.context()
        context.minimum_version = context.maximum_version = version
        before = presented(one, context=context)
        one.signer.refusals[2] = refusal
        while_broken = [presented(one, context=context) for _ in range(5)]
        status = one.program.status()

    assert (before, set(while_broken)) == ("hardware", {"fallback"})
    assert status["keys"]["2"]["fallback"] == {"active": True, "signatures": 5}
    assert (status["keys"][str(FALLBACK)]["signatures"], status["handshakes_failed"]) == (5, 0)
    # The hardware is not asked at each handshake.
    assert status["keys"]["2"]["failed"] == 1


def test_hardware_signs_again_by_itself() -> None:
    with bench(Slow()) as one:
        one.signer.refusals[2] = UNREACHABLE
        assert presented(one) == "fallback"
        one.signer.refusals.clear()
        deadline = time.monotonic() + 10
        while presented(one) == "fallback":
            assert time.monotonic() < deadline
        after = told(one)

    assert after["active"] is False
    assert after["signatures"] > 0


def test_trial_that_fails_costs_no_handshake() -> None:
    with bench(Slow()) as one:
        one.signer.refusals[2] = UNREACHABLE
        deadline = time.monotonic() + 20
        while one.program.status()["keys"].get("2", {}).get("failed", 0) < 3:
            assert presented(one) == "fallback"
            assert time.monotonic() < deadline
        assert one.program.status()["handshakes_failed"] == 0


def test_hung_hardware_holds_up_only_who_tries_it() -> None:
    with bench(Slow(seconds=1)) as one, ThreadPoolExecutor(8) as pool:
        one.signer.refusals[2] = UNREACHABLE
        first = list(pool.map(lambda _: presented(one), range(8)))
        start = time.monotonic()
        later = [presented(one) for _ in range(20)]
        taken = time.monotonic() - start

    assert set(first + later) == {"fallback"}
    assert taken < 1


def test_load_does_not_bring_the_fallback_in() -> None:
    with bench(Slow()) as one:
        one.signer.refusals[2] = BUSY
        with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
            presented(one)
        one.signer.refusals.clear()
        assert (presented(one), told(one)) == ("hardware", {"active": False, "signatures": 0})


def test_without_a_fallback_broken_hardware_only_fails() -> None:
    with bench(Slow(), has_fallback=False) as one:
        one.signer.refusals[2] = UNREACHABLE
        with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
            presented(one)
        status = one.program.status()

    assert (status["guard_refused"], "fallback" in status["keys"]["2"]) == (1, False)


def test_fallback_of_a_fast_key_is_refused() -> None:
    with bench(Slow()) as one:
        config = one.config | {"guard": []}
    config["listeners"][0]["certificates"][1] |= {"slow": False}
    sockets = listening_sockets(1)
    config["listeners"][0]["sockets"] = [sockets[0].fileno()]
    program = Program.start(config, sockets, ready=False)

    assert program.process.wait(10) == 21
    assert "has a fallback" in program.stop()
