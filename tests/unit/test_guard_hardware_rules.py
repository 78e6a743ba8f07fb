"""What guard holds keys in hardware to: their public half for each signature, sealed names for each certificate."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from support.custodian import SIGN, Question, ScriptedCustodian
from support.guard_client import (
    ECDSA_P256,
    ControlFault,
    GuardClient,
    RefusedByGuard,
    WorkerClient,
    base64url,
    bundle,
    certificate_verify,
    private_key_secret,
    running_guard,
    seal,
    server_key_exchange,
    spki,
)

KEY = os.urandom(32)
SOFT, HARD, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
SITE, AGAIN = "pkcs11:token=prod;object=site", "pkcs11:object=site;token=prod"
FIRST = 0x8000
HARDWARE_REFUSED = 14
Script = Callable[[ScriptedCustodian, Question], None]


def hardware_key(use: dict[str, Any], key: ec.EllipticCurvePrivateKey = HARD) -> dict[str, Any]:
    """Sealed rules as the document spells them."""
    digest = base64url(hashlib.sha256(spki(key)).digest())
    return {"kind": "hardware-key", "spki_sha256": digest, "use": use}


def claim(
    name: str = SITE, *, key: ec.EllipticCurvePrivateKey = HARD, names: tuple[str, ...] = ("site.example",)
) -> dict[str, Any]:
    return {
        "where": "listeners[0].certificates[0]",
        "key": name,
        "spki": base64url(spki(key)),
        "names": list(names),
    }


def configuration(*certificates: dict[str, Any]) -> dict[str, Any]:
    return {"certificates": list(certificates), "inject": []}


@pytest.fixture
def guard() -> Iterator[GuardClient]:
    with running_guard() as guard:
        yield guard


@pytest.fixture
def custodian(guard: GuardClient) -> Iterator[ScriptedCustodian]:
    """Ready, with one key under two spellings of its name."""
    one = ScriptedCustodian({1: HARD, 2: HARD}).start(guard, {1: SITE, 2: AGAIN})
    yield one
    one.close()


@contextlib.contextmanager
def edge_of(guard: GuardClient) -> Iterator[WorkerClient]:
    worker = guard.edge()
    with worker.socket:
        yield worker


def load(guard: GuardClient, **hardware: dict[str, Any]) -> None:
    soft = private_key_secret(SOFT, {"names": ["soft.example"]})
    guard.load(seal(bundle({"soft": soft} | hardware, os.urandom(32)), KEY), KEY)


def refused_to_configure(guard: GuardClient, *certificates: dict[str, Any]) -> ControlFault:
    with pytest.raises(ControlFault) as raised:
        guard.configure(configuration(*certificates))
    return raised.value


def garbage(one: ScriptedCustodian, asked: Question) -> None:
    one.reply(asked, os.urandom(71))


def of_another_key(one: ScriptedCustodian, asked: Question) -> None:
    one.reply(asked, OTHER.sign(asked.payload[2:], ec.ECDSA(hashes.SHA256())))


def of_another_message(one: ScriptedCustodian, asked: Question) -> None:
    one.reply(asked, HARD.sign(asked.payload[2:] + b"!", ec.ECDSA(hashes.SHA256())))


def of_another_hash(one: ScriptedCustodian, asked: Question) -> None:
    one.reply(asked, HARD.sign(asked.payload[2:], ec.ECDSA(hashes.SHA384())))


@pytest.mark.parametrize("script", [garbage, of_another_key, of_another_message, of_another_hash])
@pytest.mark.parametrize("message", [certificate_verify(), server_key_exchange()])
def test_wrong_signature_of_a_custodian_does_not_leave(
    guard: GuardClient, custodian: ScriptedCustodian, script: Script, message: bytes
) -> None:
    load(guard)
    guard.configure(configuration(claim()))
    custodian.scripts[SIGN] = script
    with edge_of(guard) as edge:
        for _ in range(3):
            with pytest.raises(RefusedByGuard) as raised:
                edge.sign(FIRST, ECDSA_P256, message)
            assert raised.value.code == HARDWARE_REFUSED
        (told,) = (one for one in guard.status()["custodians"][0]["keys"] if one["name"] == SITE)
        custodian.scripts.clear()
        signature = edge.sign(FIRST, ECDSA_P256, message)
    HARD.public_key().verify(signature, message, ec.ECDSA(hashes.SHA256()))

    assert (told["wrong"], told["signatures"]) == (3, 0)


def test_certificate_within_the_sealed_names_is_taken(
    guard: GuardClient, custodian: ScriptedCustodian
) -> None:
    load(guard, site=hardware_key({"names": ["site.example", "*.site.example"], "roles": ["server"]}))
    answer = guard.configure(configuration(claim(names=("site.example", "a.site.example"))))

    assert answer["warnings"] == []


@pytest.mark.parametrize("name", [SITE, AGAIN])
def test_wider_certificate_is_refused_however_the_key_is_spelled(
    guard: GuardClient, custodian: ScriptedCustodian, name: str
) -> None:
    load(guard, site=hardware_key({"names": ["site.example"]}))
    fault = refused_to_configure(guard, claim(name, names=("site.example", "admin.example")))

    assert (fault.kind, fault.where) == ("rules", "listeners[0].certificates[0]")
    assert 'certificate is for "admin.example", key is sealed for site.example' in fault.message
    assert fault.hint


def test_refused_reload_leaves_the_configuration_in_force(
    guard: GuardClient, custodian: ScriptedCustodian
) -> None:
    load(guard, site=hardware_key({"names": ["site.example"]}))
    guard.configure(configuration(claim()))
    message = certificate_verify()
    with edge_of(guard) as edge:
        refused_to_configure(guard, claim(names=("admin.example",)))
        signature = edge.sign(FIRST, ECDSA_P256, message)

    HARD.public_key().verify(signature, message, ec.ECDSA(hashes.SHA256()))


def test_key_without_the_role_serves_nothing(guard: GuardClient, custodian: ScriptedCustodian) -> None:
    load(guard, site=hardware_key({"names": ["site.example"], "roles": []}))

    assert "not sealed for role server" in refused_to_configure(guard, claim()).message


def test_bundle_that_names_keys_in_hardware_admits_no_others(
    guard: GuardClient, custodian: ScriptedCustodian
) -> None:
    load(guard, site=hardware_key({"names": ["site.example"]}, OTHER))
    fault = refused_to_configure(guard, claim())

    assert (fault.kind, fault.hint is not None) == ("rules", True)
    assert "none of the keys in hardware that are sealed" in fault.message


def test_key_without_sealed_rules_is_a_warning(guard: GuardClient, custodian: ScriptedCustodian) -> None:
    load(guard)
    (warning,) = guard.configure(configuration(claim()))["warnings"]

    assert warning == f"key {SITE} has no sealed rules: any certificate name may use it"


def test_rules_of_a_key_in_hardware_are_no_key(guard: GuardClient) -> None:
    load(guard, site=hardware_key({"names": ["site.example"]}))
    fault = refused_to_configure(guard, claim("site"))

    assert fault.kind == "key"


@pytest.mark.parametrize(
    "wrong",
    [
        hardware_key({"names": ["a.example"], "roles": ["server", "csr"]}),
        hardware_key({"names": ["a.example"], "until": 5}),
        hardware_key({}) | {"use": None},
        hardware_key({}) | {"spki_sha256": "AAAA"},
        hardware_key({}) | {"pem": "x"},
    ],
)
def test_damaged_rules_do_not_load(guard: GuardClient, wrong: dict[str, Any]) -> None:
    with pytest.raises(ControlFault) as raised:
        load(guard, site=wrong)

    assert raised.value.kind == "payload"
