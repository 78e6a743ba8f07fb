"""The header of tpm2 pins: what clevis wrote, and what was changed in it."""

from typing import Any

import pytest
from support.vectors import load, named

from unlatch.bootstrap import jose
from unlatch.bootstrap.pins.tpm2_header import SIGNED_PIN, Tpm2Pin, parse_pcr_ids
from unlatch.bootstrap.policy import PolicyError, Tpm2Rule, parse_any_policy, parse_policy
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import DamagedFileError

GOOD = load("clevis_tpm2")["vectors"]
REFUSED_BY_READING = {
    "hash missing",
    "key missing",
    "jwk_pub missing",
    "jwk_priv missing",
    "pcr_bank missing though pcr_ids present",
    "pcr_ids as JSON array in the header",
    "key bogus",
    "jwk_pub not base64",
    "jwk_priv empty",
}
BAD = load("malformed_tpm2_input")["cases"]


def parsed(**members: object) -> Tpm2Pin:
    tpm2 = {"hash": "sha256", "key": "ecc", "jwk_pub": "AAEC", "jwk_priv": "AAEC"} | members
    header = {"alg": "dir", "enc": "A256GCM", "clevis": {"pin": "tpm2", "tpm2": tpm2}}
    protected = jose.encode(jose.write_json(header))
    pin = SealedFile.parse(f"{protected}..{'A' * 16}..{'A' * 22}".encode()).pin
    assert isinstance(pin, Tpm2Pin)
    return pin


@pytest.mark.parametrize("vector", named(GOOD, "desc"))
def test_what_clevis_wrote_is_read(vector: dict[str, Any]) -> None:
    header = vector["header"]["clevis"]["tpm2"]

    pin = SealedFile.parse(vector["jwe"].encode()).pin

    assert isinstance(pin, Tpm2Pin)
    assert (pin.hash, pin.key, pin.bank) == (header["hash"], header["key"], header.get("pcr_bank"))
    assert ",".join(map(str, pin.pcrs)) == header.get("pcr_ids", "")


@pytest.mark.parametrize("case", [case for case in named(BAD, "case") if case.id in REFUSED_BY_READING])
def test_damaged_header_is_refused_without_a_tpm(case: dict[str, Any]) -> None:
    with pytest.raises(DamagedFileError, match="tpm2"):
        SealedFile.parse(case["input"].encode())


def test_every_such_case_exists() -> None:
    assert {case["case"] for case in BAD} >= REFUSED_BY_READING


@pytest.mark.parametrize(
    "ids", ["", "7,", ",7", "7 ,8", "24", "-1", "7;8", "007", "7,8 --tcti=x", "1e1", "\u0667"]
)
def test_pcr_ids_are_read_strictly(ids: str) -> None:
    with pytest.raises(DamagedFileError, match="pcr_ids"):
        parsed(pcr_ids=ids, pcr_bank="sha256")


@pytest.mark.parametrize(
    ("name", "value"),
    [("pcr_bank", "md5"), ("hash", "sha3-256"), ("key", "ecc;rm"), ("jwk_pub", "A" * 4000), ("jwk_pub", 1)],
)
def test_values_outside_the_tables_are_refused(name: str, value: object) -> None:
    with pytest.raises(DamagedFileError, match=name):
        parsed(**{"pcr_ids": "7", "pcr_bank": "sha256", name: value})


def test_unknown_members_are_ignored() -> None:
    assert parsed(pcr_digest="x", policy_ref="").pcrs == ()


def test_pin_for_signed_values_needs_its_authority() -> None:
    members = {"hash": "sha256", "key": "ecc", "jwk_pub": "AAEC", "jwk_priv": "AAEC", "reference": ""}
    header = {"alg": "dir", "enc": "A256GCM", "clevis": {"pin": SIGNED_PIN, SIGNED_PIN: members}}
    protected = jose.encode(jose.write_json(header))

    with pytest.raises(DamagedFileError, match="authority"):
        SealedFile.parse(f"{protected}..{'A' * 16}..{'A' * 22}".encode())


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ('"7"', (7,)),
        ('"17,0,16"', (17, 0, 16)),
        ("[0, 17]", (0, 17)),
        ('["4", 16]', (4, 16)),
        ('["4,16"]', (4, 16)),
        ('"4,  16"', (4, 16)),
        ('""', ()),
        ("[]", ()),
    ],
)
def test_configured_pcr_ids_are_read_as_clevis_reads_them(ids: str, expected: tuple[int, ...]) -> None:
    rule = parse_policy("tpm2", f'{{"pcr_bank": "sha256", "pcr_ids": {ids}}}')

    assert isinstance(rule, Tpm2Rule)
    assert rule.pcrs == expected


@pytest.mark.parametrize(
    "config",
    [
        '{"pcr_ids": 7}',
        '{"pcr_ids": "a"}',
        '{"pcr_ids": [7.5]}',
        '{"pcr_ids": [true]}',
        '{"pcr_ids": "24"}',
        '{"hash": "md5"}',
        '{"key": "ed25519"}',
        '{"pcr_bank": 1}',
        '{"hash": "sha384", "pcr_ids": "7"}',
        '{"pcr_ids": "7", "pcr_digest": "!"}',
        "[]",
    ],
)
def test_configurations_that_clevis_could_not_open_are_refused(config: str) -> None:
    with pytest.raises(PolicyError):
        parse_policy("tpm2", config)


def test_configuration_without_a_mark_is_for_the_tpm() -> None:
    assert parse_any_policy("{}") == Tpm2Rule()
    assert parse_any_policy('{"hash": "sha1"}') == Tpm2Rule(hash="sha1")


def test_numbers_from_0_to_23_are_pcrs() -> None:
    assert parse_pcr_ids("0,23,5") == (0, 23, 5)
