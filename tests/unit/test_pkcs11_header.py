"""The header of pkcs11 pins: clevis 22's and ours."""

from typing import Any

import pytest
from support.vectors import load, named

from unlatch.bootstrap import jose
from unlatch.bootstrap.pins.pkcs11_header import OAEP_PIN, Pkcs11Pin
from unlatch.bootstrap.policy import Pkcs11Rule, PolicyError, parse_any_policy
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import DamagedFileError

VECTORS = [vector for vector in load("clevis_pkcs11")["vectors"] if "jwe" in vector]


def parsed(pin: str, **members: object) -> Pkcs11Pin:
    base = {"uri": "pkcs11:token=a", "key": "AAEC", "mechanism": "RSA-OAEP", "key_digest": "A" * 43}
    header = {"alg": "dir", "enc": "A256GCM", "clevis": {"pin": pin, pin: base | members}}
    protected = jose.encode(jose.write_json(header))
    found = SealedFile.parse(f"{protected}..{'A' * 16}..{'A' * 22}".encode()).pin
    assert isinstance(found, Pkcs11Pin)
    return found


@pytest.mark.parametrize("vector", named(VECTORS, "desc"))
def test_what_clevis_wrote_is_read_and_always_pkcs1(vector: dict[str, Any]) -> None:
    pin = SealedFile.parse(vector["jwe"].encode()).pin

    assert isinstance(pin, Pkcs11Pin)
    assert pin.padding == "pkcs1"
    assert pin.key_digest is None
    assert pin.uri.module_path == "libsofthsm2.so"


def test_pin_in_a_header_of_clevis_is_not_shown() -> None:
    pin = SealedFile.parse(VECTORS[0]["jwe"].encode()).pin

    assert isinstance(pin, Pkcs11Pin)
    assert pin.uri.pin_value == "123456"
    assert "123456" not in repr(pin) + pin.needs


@pytest.mark.parametrize(("mechanism", "padding"), [("RSA-OAEP", "oaep-sha1"), ("RSA-OAEP-256", "oaep")])
def test_our_mechanisms_are_read(mechanism: str, padding: str) -> None:
    assert parsed(OAEP_PIN, mechanism=mechanism).padding == padding


@pytest.mark.parametrize(
    "members",
    [
        {"mechanism": "RSA-PKCS"},
        {"mechanism": None},
        {"key": ""},
        {"key": "!"},
        {"key": "A" * 2000},
        {"uri": "pkcs12:"},
        {"uri": 1},
        {"uri": "pkcs11:label=x"},
        {"key_digest": "AAAA"},
        {"key_digest": None},
    ],
    ids=str,
)
def test_damaged_header_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(DamagedFileError, match=OAEP_PIN):
        parsed(OAEP_PIN, **members)


def test_configuration_names_a_mechanism_or_takes_the_better_one() -> None:
    assert parse_any_policy('{"uri": "pkcs11:token=a"}') == Pkcs11Rule("pkcs11:token=a", None)
    assert parse_any_policy('{"uri": "pkcs11:", "mechanism": "RSA-PKCS"}') == Pkcs11Rule(
        "pkcs11:", "RSA-PKCS"
    )
    assert parse_any_policy('{"uri": "pkcs11:", "mechanism": "RSA-PKCS-OAEP"}') == Pkcs11Rule(
        "pkcs11:", "RSA-OAEP"
    )


@pytest.mark.parametrize(
    "config", ['{"uri": ""}', '{"uri": 1}', '{"uri": "pkcs11:", "mechanism": "RSA-X-509"}']
)
def test_configuration_that_makes_no_sense_is_named(config: str) -> None:
    with pytest.raises(PolicyError):
        parse_any_policy(config)
