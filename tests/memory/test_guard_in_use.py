"""Guard under saturation, frozen in the middle of its work a hundred times.

Its own filter and secret memory hide all of it from outside. Then both are taken away, and the generator is made to
stick, so that the scanner can be told every nonce in advance: the parts of scalars and nonces are there, their sums
are not.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from support import weaker_host
from support.guard_client import ECDSA_P256, ECDSA_P384, ED25519, GuardClient, WorkerClient, running_guard
from support.guard_site import SCHEMES, Finding, GuardSite, scrape, variant_program

pytestmark = pytest.mark.memory

LOG = logging.getLogger(__name__)
SAMPLES = 100
# The parts must be met in one of so many rounds; the sums in none.
ROUNDS = 10
MESSAGE = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + b"\x5c" * 32
WITHOUT_SECRET_MEMORY = (sys.executable, str(Path(weaker_host.__file__)), "--deny", "memfd_secret")
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P384_ORDER = int(
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16
)
ED25519_ORDER = (1 << 252) + 27742317777372353535851937790883648493


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> GuardSite:
    if os.getuid() != 0:
        pytest.fail("reading the memory of a non-dumpable process needs root")
    return GuardSite(tmp_path_factory.mktemp("site"))


@contextlib.contextmanager
def saturated(
    site: GuardSite, guard: GuardClient, *signing: tuple[int, int], tokens: bool = False
) -> Iterator[None]:
    """A thread for each key number and scheme, and one for tokens, each asking without a pause."""
    done = threading.Event()
    finished: list[bool] = []

    def ask(worker: WorkerClient, one: Callable[[WorkerClient], object]) -> None:
        with contextlib.closing(worker.socket):
            while not done.is_set():
                one(worker)
        finished.append(True)

    def signer(number: int, scheme: int) -> Callable[[WorkerClient], object]:
        return lambda worker: worker.sign(number, scheme, MESSAGE)

    work = [(guard.edge(), signer(*one)) for one in signing]
    if tokens:
        work.append((guard.egress(), lambda worker: site.requests(worker, 1)))
    threads = [threading.Thread(target=ask, args=one) for one in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(finished) == len(threads), "a thread failed"


def every_key(site: GuardSite) -> list[tuple[int, int]]:
    return [(number, SCHEMES[name]) for number, name in enumerate(site.keys, 1)]


FROZEN = ("--freeze", "--under-load", str(SAMPLES), "--interval", "0.01")


def shares(finding: Finding) -> dict[str, int]:
    """In how many frozen samples each secret was hit."""
    per = finding.report["under_load"]["per_needle"]
    return {name: counts["with_hit"] for name, counts in per.items()}


def test_nothing_in_use_is_seen_from_outside(site: GuardSite) -> None:
    with running_guard() as guard:
        site.unlock(guard)
        if guard.status()["memory"]["stacks"] != "memfd_secret":
            pytest.fail("this kernel has no secret memory: run the gate on one that has")
        with saturated(site, guard, *every_key(site), tokens=True):
            finding = site.scan(guard, *FROZEN)
    LOG.info("frozen samples with a hit, of %d: %s", SAMPLES, shares(finding))

    assert set(shares(finding).values()) == {0}


def test_curves_are_never_whole_even_without_secret_memory(site: GuardSite) -> None:
    with running_guard(*WITHOUT_SECRET_MEMORY) as guard:
        site.unlock(guard)
        with saturated(site, guard, *every_key(site), tokens=True):
            finding = site.scan(guard, *FROZEN)
    hit = shares(finding)
    LOG.info("without secret memory, frozen samples with a hit, of %d: %s", SAMPLES, hit)

    assert (hit["p256"], hit["p384"], hit["ed25519"]) == (0, 0, 0)
    assert hit["rsa"] > 0, "the control: an RSA key in use is joined, and this scan sees it"


def test_rsa_key_that_is_never_joined_is_never_whole(site: GuardSite) -> None:
    with running_guard(*WITHOUT_SECRET_MEMORY) as guard:
        guard.settings(never_joined=["rsa"])
        site.unlock(guard)
        rsa = (2, SCHEMES["rsa"])
        with saturated(site, guard, rsa, rsa):
            finding = site.scan(guard, *FROZEN)
    LOG.info("never joined, frozen samples with a hit, of %d: %s", SAMPLES, shares(finding)["rsa"])

    assert shares(finding)["rsa"] == 0


def pattern(length: int) -> bytes:
    """What the stuck generator of the variant gives."""
    return bytes((place % 256 * 89 + 0x5A) & 0xFF for place in range(length))


@dataclass(frozen=True)
class Parts:
    """What guard computes with for one key, foretold."""

    scalars: tuple[int, int]
    nonces: tuple[int, int]


def foretell(share: int, order: int, scalar: int, algorithm: int) -> Parts:
    """Parts of a scalar and of its nonce for MESSAGE, as docs/guard.md writes them, in generation 0."""
    counter_and_nonce = bytes(4) + share.to_bytes(4, "big") + bytes(8)
    pad = Cipher(algorithms.ChaCha20(pattern(32), counter_and_nonce), mode=None).encryptor().update(bytes(96))
    little = order == ED25519_ORDER
    second = int.from_bytes(pad[:64], "little" if little else "big") % order
    fresh = pattern(64)

    def nonce(seed: bytes, drawn: bytes) -> int:
        text = drawn + share.to_bytes(4, "big") + algorithm.to_bytes(2, "big") + b"\0" + MESSAGE
        mac = hmac.digest(seed, text, hashlib.sha512)
        return int.from_bytes(mac, "little" if little else "big") % order

    return Parts(
        ((scalar - second) % order, second), (nonce(pattern(32), fresh[:32]), nonce(pad[64:], fresh[32:]))
    )


def hunted(site: GuardSite, guard: GuardClient, name: str) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers that must never be there, and numbers that must be there now and then."""
    share = list(site.keys).index(name)
    edge = guard.edge()
    with contextlib.closing(edge.socket):
        signature = edge.sign(share + 1, SCHEMES[name], MESSAGE)
    key = site.keys[name]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return hunted_ecdsa(key, share, signature)
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    return hunted_ed25519(key, share, signature)


def hunted_ecdsa(
    key: ec.EllipticCurvePrivateKey, share: int, signature: bytes
) -> tuple[dict[str, int], dict[str, int]]:
    is_p256 = key.key_size == 256
    order, scheme, digest = (
        (P256_ORDER, ECDSA_P256, hashlib.sha256) if is_p256 else (P384_ORDER, ECDSA_P384, hashlib.sha384)
    )
    d = key.private_numbers().private_value
    parts = foretell(share, order, d, scheme)
    k = sum(parts.nonces) % order
    r, s = decode_dss_signature(signature)
    z = int.from_bytes(digest(MESSAGE).digest(), "big")
    assert s * k % order == (z + r * d) % order, "the nonce was foretold wrongly"
    radix = 1 << key.key_size
    wholes = {
        "d": d,
        "d in Montgomery form": d * radix % order,
        "k": k,
        "k in Montgomery form": k * radix % order,
        "1/k": pow(k, -1, order),
        "r·d": r * d % order,
        "z + r·d": (z + r * d) % order,
    }
    return wholes, {"k1": parts.nonces[0], "k2": parts.nonces[1]}


def hunted_ed25519(
    key: ed25519.Ed25519PrivateKey, share: int, signature: bytes
) -> tuple[dict[str, int], dict[str, int]]:
    clamped = bytearray(hashlib.sha512(raw(key)).digest()[:32])
    clamped[0] &= 0xF8
    clamped[31] = clamped[31] & 0x7F | 0x40
    a = int.from_bytes(clamped, "little") % ED25519_ORDER
    parts = foretell(share, ED25519_ORDER, a, ED25519)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + MESSAGE).digest(), "little") % ED25519_ORDER
    nonce = sum(parts.nonces) % ED25519_ORDER
    assert int.from_bytes(signature[32:], "little") == (nonce + h * a) % ED25519_ORDER
    wholes = {"a": a, "r": nonce, "h·a": h * a % ED25519_ORDER}
    return wholes, {"r1": parts.nonces[0], "r2": parts.nonces[1]}


def raw(key: ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


@pytest.mark.parametrize("name", ["p256", "p384", "ed25519"])
def test_sums_are_never_there_though_their_parts_are(site: GuardSite, name: str) -> None:
    environment = {"UNLATCH_TEST_VARIANT": "fixed-random"}
    with running_guard(*WITHOUT_SECRET_MEMORY, program=variant_program(), environment=environment) as guard:
        guard.settings(reshare_ms=3_600_000)
        site.unlock(guard)
        wholes, controls = hunted(site, guard, name)
        width = 96 if name == "p384" else 64
        numbers = [f"--number={what}={value:0{width}x}" for what, value in (wholes | controls).items()]
        key = (list(site.keys).index(name) + 1, SCHEMES[name])
        seen: set[str] = set()
        for _ in range(ROUNDS):
            with saturated(site, guard, key, key):
                finding = scrape(site.folder, *numbers, "--pid", str(guard.process.pid), *FROZEN)
            hit = shares(finding)
            LOG.info("frozen samples with a hit, of %d: %s", SAMPLES, hit)

            assert {what: hit[what] for what in wholes} == dict.fromkeys(wholes, 0)
            seen |= {what for what in controls if hit[what]}
            if seen == set(controls):
                return
    pytest.fail("a part was never seen: this scan sees nothing")
