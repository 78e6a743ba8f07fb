"""Policies in clevis's form, and what they resolve to."""

import pytest
from support.fake_tang import FakeTang
from support.secrets import revealed, secret

from unlatch.bootstrap import seal
from unlatch.bootstrap.advertisement import Advertisement
from unlatch.bootstrap.open import recover_content_key
from unlatch.bootstrap.pins import tree
from unlatch.bootstrap.policy import PolicyError, SssRule, TangRule, parse_any_policy, parse_policy
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import UntrustedGateError
from unlatch.memguard._native import exchange_key_generate, jwe_open


@pytest.mark.parametrize(
    ("pin", "config", "rule"),
    [
        ("tang", '{"url":"u"}', TangRule("u")),
        ("tang", '{"url":"u","thp":"t","extra":1}', TangRule("u", "t")),
        ("tang", '{"url":"u","thp":1,"adv":1}', TangRule("u")),
        ("tang", '{"url":"u","adv":"file"}', TangRule("u", None, "file")),
        ("tang", '{"url":"u","adv":{"b":1,"a":2}}', TangRule("u", None, b'{"a":2,"b":1}')),
        ("sss", '{"pins":{"tang":{"url":"u"}}}', SssRule(1, (TangRule("u"),))),
        (
            "sss",
            '{"t":2,"pins":{"tang":[{"url":"a"},{"url":"b"}],"sss":{"t":1,"pins":{"tang":[{"url":"c"}]}}}}',
            SssRule(2, (TangRule("a"), TangRule("b"), SssRule(1, (TangRule("c"),)))),
        ),
    ],
)
def test_configuration_is_read_as_clevis_reads_it(pin: str, config: str, rule: object) -> None:
    assert parse_policy(pin, config) == rule


@pytest.mark.parametrize(
    ("pin", "config", "message"),
    [
        ("tang", "{}", "Missing the required 'url'"),
        ("tang", '{"url":1}', "Missing the required 'url'"),
        ("tang", "[]", "malformed"),
        ("tang", "{bad", "malformed"),
        ("sss", "{bad", "Error parsing config"),
        ("sss", '{"t":1.0,"pins":{"tang":{"url":"u"}}}', "Error parsing config"),
        ("sss", '{"t":true,"pins":{"tang":{"url":"u"}}}', "Error parsing config"),
        ("sss", '{"t":"1","pins":{}}', "Error parsing config"),
        ("sss", '{"t":0,"pins":{"tang":{"url":"u"}}}', "Invalid threshold: 0 of 1"),
        ("sss", '{"t":2,"pins":{"tang":{"url":"u"}}}', "Invalid threshold: 2 of 1"),
        ("sss", '{"t":1,"pins":{"tang":[1]}}', "no object"),
        ("sss", '{"t":1,"pins":{"yubikey":{}}}', "cannot seal to pin 'yubikey'"),
        ("sss", '{"pins":{"sss":' * 9 + "{}" + "}}" * 9, "inside each other"),
    ],
)
def test_configuration_that_makes_no_sense_is_named(pin: str, config: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        parse_policy(pin, config)


def test_policy_of_either_kind_is_told_apart() -> None:
    assert isinstance(parse_any_policy('{"url":"u"}'), TangRule)
    assert isinstance(parse_any_policy('{"t":1,"pins":{"tang":{"url":"u"}}}'), SssRule)


def refuse(url: str, advertisement: Advertisement) -> str:
    raise UntrustedGateError(f"nothing pins {url}")


def test_pinned_server_is_sealed_to_and_opens() -> None:
    tang = FakeTang()
    target = seal.resolve(TangRule(tang.url, tang.thumbprint), advertiser=tang, accept=refuse)

    sealed = SealedFile.parse(seal.encrypt(secret(b"hello"), target))

    assert seal.trust_of(target) == {tang.url: "pinned"}
    assert revealed(jwe_open(sealed.compact, recover_content_key(sealed, transport=tang))) == b"hello"


def test_file_advertisement_is_trusted_without_contact() -> None:
    tang = FakeTang()
    rule = TangRule(tang.url, None, tang.advertisement())

    class Nobody:
        def advertisement(self, url: str, *, thumbprint: str = "") -> bytes:
            raise AssertionError(url)

    assert seal.trust_of(seal.resolve(rule, advertiser=Nobody(), accept=refuse)) == {tang.url: "file"}


def test_file_advertisement_with_another_pin_is_refused() -> None:
    tang = FakeTang()

    with pytest.raises(UntrustedGateError, match="pinned key"):
        seal.resolve(TangRule(tang.url, "A" * 43, tang.advertisement()), advertiser=tang, accept=refuse)


def test_server_that_nothing_pins_is_left_to_the_caller() -> None:
    tang = FakeTang()

    with pytest.raises(UntrustedGateError, match="nothing pins"):
        seal.resolve(SssRule(1, (TangRule(tang.url),)), advertiser=tang, accept=refuse)


def test_missing_advertisement_file_is_worded_as_in_clevis() -> None:
    with pytest.raises(PolicyError, match=r"Advertisement file 'no\.jws' not found!"):
        seal.resolve(TangRule("u", None, "no.jws"), advertiser=FakeTang(), accept=refuse)


def test_recovery_adds_a_second_way_in() -> None:
    tang = FakeTang()
    target = seal.resolve(TangRule(tang.url, tang.thumbprint), advertiser=tang, accept=refuse)
    _, public = exchange_key_generate("P-256")
    both = seal.with_recovery(target, seal.read_recovery_key(public))

    pin = SealedFile.parse(seal.encrypt(secret(b"x"), both)).pin

    assert isinstance(pin, tree.SssPin)
    assert [type(child.pin) for child in pin.children] == [tree.TangPin, tree.RecoveryPin]
    assert pin.threshold == 1
