"""Advertisements: every signing key must have signed."""

from typing import Any

import pytest
from support.fake_tang import FakeTang

from unlatch.bootstrap import jose
from unlatch.bootstrap.advertisement import Advertisement
from unlatch.errors import UntrustedGateError


@pytest.fixture(scope="module")
def tang() -> FakeTang:
    return FakeTang(signers=2)


def members(body: bytes) -> dict[str, Any]:
    value = jose.read_json(body)
    assert isinstance(value, dict)
    return value


def test_advertisement_signed_by_all_is_taken(tang: FakeTang) -> None:
    advertisement = Advertisement.parse(tang.advertisement())

    assert advertisement.exchange_key == tang.exchange_public
    assert len(advertisement.signing_keys) == 2


@pytest.mark.parametrize("missing", [0, 1])
def test_advertisement_without_one_of_the_signatures_is_refused(tang: FakeTang, missing: int) -> None:
    jws = members(tang.advertisement())
    del jws["signatures"][missing]

    with pytest.raises(UntrustedGateError, match="every signing key"):
        Advertisement.parse(jose.write_json(jws))


def test_same_signature_twice_does_not_replace_the_other(tang: FakeTang) -> None:
    jws = members(tang.advertisement())
    jws["signatures"][1] = jws["signatures"][0]

    with pytest.raises(UntrustedGateError, match="every signing key"):
        Advertisement.parse(jose.write_json(jws))


def test_foreign_signature_beside_the_right_ones_does_no_harm(tang: FakeTang) -> None:
    jws = members(tang.advertisement())
    other = members(FakeTang().advertisement())
    jws["signatures"].insert(0, {name: other[name] for name in ("protected", "signature")})

    assert len(Advertisement.parse(jose.write_json(jws)).signing_keys) == 2


def test_changed_payload_is_refused(tang: FakeTang) -> None:
    jws = members(tang.advertisement())
    jws["payload"] = members(FakeTang(signers=2).advertisement())["payload"]

    with pytest.raises(UntrustedGateError, match="every signing key"):
        Advertisement.parse(jose.write_json(jws))


def test_alg_none_is_refused() -> None:
    tang = FakeTang()
    jws = members(tang.advertisement())
    jws |= {"protected": jose.encode(b'{"alg":"none"}'), "signature": ""}

    with pytest.raises(UntrustedGateError, match="every signing key"):
        Advertisement.parse(jose.write_json(jws))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (lambda keys: keys[:1], "no exchange key"),
        (lambda keys: keys[2:], "no signing key"),
        (lambda keys: keys[:0], "no key set"),
        (lambda keys: [*keys, "x"], "no key set"),
        (lambda keys: [*keys[:2], {**keys[2], "d": "AAAA"}], "private key"),
        (lambda keys: [*keys[:2], {**keys[2], "alg": "ECDH"}], "not ECMR"),
        (lambda keys: [*keys[:2], {k: v for k, v in keys[2].items() if k != "key_ops"}], "every signing key"),
    ],
)
def test_key_sets_that_cannot_be_sealed_to_are_refused(tang: FakeTang, keys: Any, message: str) -> None:
    body = tang.sign(jose.write_json({"keys": keys(tang.keys)}))

    with pytest.raises(UntrustedGateError, match=message):
        Advertisement.parse(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<!DOCTYPE html><p>please log in", "web page"),
        (b"", "not a JWS"),
        (b"[]", "not a JWS"),
        (b'{"payload":1}', "not a JWS"),
        (b'{"payload":"","signatures":[]}', "no signatures"),
        (b'{"payload":"","signatures":[{}]}', "without its fields"),
        (b'{"payload":"","protected":"","signature":""}', "no key set"),
        (b'{"payload":"' + b"A" * 70000 + b'"}', "not a JWS"),
    ],
)
def test_what_is_no_advertisement_is_named(body: bytes, message: str) -> None:
    with pytest.raises(UntrustedGateError, match=message) as caught:
        Advertisement.parse(body)

    assert caught.value.hint
    assert caught.value.exit_code == 16


@pytest.mark.parametrize("algorithm", ["sha256", "sha1"])
def test_pinned_thumbprint_is_expected_in_both_hashes(tang: FakeTang, algorithm: str) -> None:
    Advertisement.parse(tang.advertisement()).expect(jose.thumbprint(tang.keys[1], algorithm=algorithm))


def test_thumbprints_of_exchange_key_and_stranger_are_refused(tang: FakeTang) -> None:
    advertisement = Advertisement.parse(tang.advertisement())

    for thumbprint in (jose.thumbprint(tang.exchange_public), "A" * 43, "any", ""):
        with pytest.raises(UntrustedGateError, match="pinned key"):
            advertisement.expect(thumbprint)
