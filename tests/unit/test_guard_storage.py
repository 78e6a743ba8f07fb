"""How guard keeps secrets: parts that change, RSA keys that are never joined, hosts that offer less."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from support import weaker_host
from support.guard_client import (
    ECDSA_P256,
    PSS_SHA256,
    ControlFault,
    GuardClient,
    base64url,
    bundle,
    certificate_verify,
    private_key_secret,
    running_guard,
    seal,
    spki,
    token_secret,
)
from support.pki import PrivateKey, new_key

from unlatch.memguard.control import guard_program

KEY = os.urandom(32)
KEYS: dict[str, PrivateKey] = {"tls": new_key("p256"), "old": new_key("rsa")}
SEALED = seal(bundle({name: private_key_secret(key, {}) for name, key in KEYS.items()}), KEY)
CONFIGURATION = {
    "certificates": [
        {"where": name, "key": name, "spki": base64url(spki(key)), "names": ["pay.example"]}
        for name, key in KEYS.items()
    ],
    "inject": [],
}
WEAKER = (sys.executable, str(Path(weaker_host.__file__)))
needs_numbers = pytest.mark.skipif(platform.machine() != "x86_64", reason="filters by x86-64 numbers")


@pytest.fixture
def guard() -> Iterator[GuardClient]:
    with running_guard() as guard:
        yield guard


def both_keys_sign(guard: GuardClient) -> None:
    """Load if need be, sign with both keys, verify."""
    if guard.status()["locked"]:
        guard.load(SEALED, KEY)
        guard.configure(CONFIGURATION)
    worker = guard.edge()
    message = certificate_verify()
    tls, old = KEYS["tls"].public_key(), KEYS["old"].public_key()
    assert isinstance(tls, ec.EllipticCurvePublicKey)
    assert isinstance(old, rsa.RSAPublicKey)
    tls.verify(worker.sign(1, ECDSA_P256, message), message, ec.ECDSA(hashes.SHA256()))
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    old.verify(worker.sign(2, PSS_SHA256, message), message, pss, hashes.SHA256())
    worker.socket.close()


def weaker(guard: GuardClient) -> list[str]:
    return [one["name"] for one in guard.status()["memory"]["weaker"]]


def test_parts_change_by_themselves_every_five_seconds_unless_told(guard: GuardClient) -> None:
    assert guard.status()["reshare"] == {"every_ms": 5000, "failures": 0, "generation": 0}

    guard.settings(reshare_ms=100)
    both_keys_sign(guard)
    while guard.status()["reshare"]["generation"] < 3:
        both_keys_sign(guard)

    assert guard.status()["reshare"]["every_ms"] == 100


def test_parts_change_on_demand_and_keys_stay(guard: GuardClient) -> None:
    for generation in range(1, 20):
        assert guard.reshare() == generation
        both_keys_sign(guard)


@pytest.mark.parametrize(
    "members",
    [
        {"reshare_ms": 99},
        {"reshare_ms": 3_600_001},
        {"reshare_ms": "5s"},
        {"reshare": 5},
        {"require": ["everything"]},
        {"never_joined": "old"},
    ],
    ids=str,
)
def test_settings_that_are_not_understood_change_nothing(guard: GuardClient, members: dict[str, Any]) -> None:
    before = guard.status()["reshare"]["every_ms"]

    with pytest.raises(ControlFault) as refused:
        guard.settings(**members)

    assert refused.value.kind == "malformed"
    assert guard.status()["reshare"]["every_ms"] == before


def test_status_says_where_parts_lie(guard: GuardClient) -> None:
    memory = guard.status()["memory"]

    assert memory["shares"] in ("memfd_secret", "locked pages")
    assert memory["root"] in ("process keyring", "locked pages")
    assert (memory["shares"] == "locked pages") == ("memfd_secret" in weaker(guard))
    assert (memory["root"] == "locked pages") == ("keyring" in weaker(guard))


def test_rsa_key_that_is_never_joined_signs(guard: GuardClient) -> None:
    guard.settings(never_joined=["old"])

    both_keys_sign(guard)
    guard.reshare()
    both_keys_sign(guard)


@pytest.mark.parametrize("name", ["tls", "nobody"])
def test_only_rsa_keys_can_be_told_to_stay_apart(guard: GuardClient, name: str) -> None:
    guard.settings(never_joined=[name])

    with pytest.raises(ControlFault, match="never_joined") as refused:
        guard.load(SEALED, KEY)

    assert refused.value.kind == "key"
    assert guard.status()["locked"]


def test_never_joined_does_not_change_while_keys_are_held(guard: GuardClient) -> None:
    guard.settings(never_joined=["old"])
    both_keys_sign(guard)

    with pytest.raises(ControlFault) as refused:
        guard.settings(never_joined=[], reshare_ms=200)

    assert refused.value.kind == "state"
    assert guard.status()["reshare"]["every_ms"] == 5000
    guard.settings(never_joined=["old"], reshare_ms=200)
    guard.drop()
    guard.settings(never_joined=[])


@needs_numbers
@pytest.mark.parametrize(
    ("profile", "missing"),
    [
        ("keyring", ["keyring"]),
        ("memfd_secret", ["memfd_secret"]),
        ("container", ["keyring"]),
        ("old-container", ["memfd_secret", "keyring"]),
    ],
)
def test_host_that_offers_less_is_served_named_and_refused_when_more_is_required(
    profile: str, missing: list[str]
) -> None:
    with running_guard(*WEAKER, "--deny", profile) as guard:
        both_keys_sign(guard)
        guard.reshare()
        both_keys_sign(guard)

        assert set(missing) <= set(weaker(guard))
        for name in missing:
            with pytest.raises(ControlFault, match=name) as refused:
                guard.settings(require=[name], reshare_ms=200)
            assert refused.value.kind == "require"
            assert refused.value.hint
        assert guard.status()["reshare"]["every_ms"] == 5000


def test_what_is_there_may_be_required(guard: GuardClient) -> None:
    everything = {"memfd_secret", "keyring", "all_locked"}

    guard.settings(require=sorted(everything - set(weaker(guard))))


@needs_numbers
@pytest.mark.timeout(300)
@pytest.mark.parametrize("profile", ["container", "old-container"])
def test_whole_suite_passes_in_a_container(profile: str) -> None:
    """Under what Docker's default profile refuses."""
    folder = Path(__file__).parent
    files = [str(path) for path in folder.glob("test_guard_*.py") if path != Path(__file__)]
    command = [
        *WEAKER,
        "--deny",
        profile,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *files,
    ]

    done = subprocess.run(command, capture_output=True, cwd=folder.parents[1])

    assert len(files) > 5
    assert done.returncode == 0, done.stdout.decode()[-3000:]


@needs_numbers
def test_small_lock_limit_is_enough_for_keys_and_named(guard: GuardClient) -> None:
    with running_guard(*WEAKER, "--memlock", str(256 * 1024)) as limited:
        both_keys_sign(limited)

        assert "all_locked" in weaker(limited)


@needs_numbers
def test_more_secrets_than_the_lock_limit_are_refused_with_the_limit_named() -> None:
    tokens = {f"t{number}": token_secret("x" * 16_000) for number in range(40)}
    with running_guard(*WEAKER, "--memlock", str(256 * 1024)) as limited:
        with pytest.raises(ControlFault) as refused:
            limited.load(seal(bundle(tokens), KEY), KEY)

        assert "MEMLOCK" in f"{refused.value.message} {refused.value.hint}"
        assert limited.status()["locked"]
        both_keys_sign(limited)


@needs_numbers
def test_guard_does_not_start_where_nothing_can_be_locked() -> None:
    command = [*WEAKER, "--memlock", "0", str(guard_program()), "--self-test"]

    done = subprocess.run(command, capture_output=True)

    assert done.returncode == 1
    assert b"RLIMIT_MEMLOCK" in done.stderr
