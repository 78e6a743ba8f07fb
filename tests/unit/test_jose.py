"""Base64url, JSON and JWKs: strict when read."""

import pytest

from unlatch.bootstrap import jose

KEY = {"crv": "P-256", "kty": "EC", "x": "AQ", "y": "Ag"}


@pytest.mark.parametrize("text", ["YQ==", "YR", "Y Q", "YQ\n", "Y", "+/8", "ä"])
def test_base64url_with_padding_stray_bits_or_other_letters_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64url"):
        jose.decode(text)


def test_base64url_without_padding_is_read() -> None:
    assert jose.decode("-_8") == b"\xfb\xff"


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', '{"a":{"b":1,"b":2}}', "NaN", "[" * 100000, '"\\ud800"', "{", b"\xff"]
)
def test_json_that_two_readers_could_read_differently_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        jose.read_json(text)


def test_json_is_written_sorted_and_compact() -> None:
    assert jose.write_json({"b": [1, "ü"], "a": None}) == '{"a":null,"b":[1,"ü"]}'.encode()


def test_thumbprint_ignores_members_that_do_not_count() -> None:
    assert jose.thumbprint({**KEY, "alg": "ECMR", "d": "secret"}) == jose.thumbprint(KEY)


@pytest.mark.parametrize("key", [{}, {"kty": "OKP"}, {"kty": "EC", "crv": "P-256", "x": 1, "y": "Ag"}])
def test_thumbprint_of_an_incomplete_key_is_refused(key: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="thumbprint"):
        jose.thumbprint(key)


@pytest.mark.parametrize(
    ("key", "operation", "explicit", "expected"),
    [
        ({}, "sign", False, True),
        ({}, "deriveKey", True, False),
        ({"key_ops": ["deriveKey"]}, "deriveKey", True, True),
        ({"key_ops": ["deriveKey"]}, "verify", False, False),
        ({"use": "sig"}, "verify", True, True),
        ({"use": "enc"}, "deriveKey", False, False),
        ({"key_ops": "deriveKey"}, "deriveKey", False, False),
    ],
)
def test_key_operations_follow_the_rules_of_jose(
    key: dict[str, object], operation: str, explicit: bool, expected: bool
) -> None:
    assert jose.may(key, operation, explicit=explicit) is expected


def test_public_part_drops_every_private_member() -> None:
    assert jose.public_part({**KEY, "d": "1", "k": "2", "dp": "3"}) == KEY
