"""PKCS#11 URIs: RFC 7512's examples, clevis's form, and advice."""

import pytest

from unlatch.errors import ConfigError
from unlatch.memguard.custodian.uri import TokenUri, lint

# RFC 7512 section 3
EXAMPLES = [
    ("pkcs11:", TokenUri()),
    (
        "pkcs11:object=my-pubkey;type=public",
        TokenUri(object="my-pubkey", type="public"),
    ),
    (
        "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
        TokenUri(object="my-key", type="private", pin_source="file:/etc/token"),
    ),
    (
        "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin",
        TokenUri(
            token="The Software PKCS#11 Softtoken",
            manufacturer="Snake Oil, Inc.",
            model="1.0",
            object="my-certificate",
            type="cert",
            id=bytes.fromhex("69953e5cf4bdec91"),
            serial="",
            pin_source="file:/etc/token_pin",
        ),
    ),
    (
        "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
        TokenUri(object="my-sign-key", type="private", module_name="mypkcs11"),
    ),
    (
        "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1",
        TokenUri(object="my-sign-key", type="private", module_path="/mnt/libmypkcs11.so.1"),
    ),
    (
        "pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=the-pin",
        TokenUri(token="Software PKCS#11 softtoken", manufacturer="Snake Oil, Inc.", pin_value="the-pin"),
    ),
    (
        "pkcs11:slot-description=Sun%20Metaslot",
        TokenUri(),
    ),
    (
        "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;library-version=1.23",
        TokenUri(),
    ),
    (
        "pkcs11:token=My%20token%25%20created%20by%20Joe;library-version=3;id=%01%02%03%Ba%dd%Ca%fe%04%05%06",
        TokenUri(token="My token% created by Joe", id=bytes.fromhex("010203baddcafe040506")),
    ),
    (
        "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert",
        TokenUri(token="A name with a substring %;", object="my-certificate", type="cert"),
    ),
    (
        "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert",
        TokenUri(token="Name with a small A with acute: \u00e1", object="my-certificate", type="cert"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), EXAMPLES)
def test_examples_of_the_standard_are_read(text: str, expected: TokenUri) -> None:
    assert TokenUri.parse(text) == expected
    assert TokenUri.parse(expected.text(pin=True)) == expected


def test_form_of_clevis_is_read() -> None:
    uri = TokenUri.parse("pkcs11:module-path=libsofthsm2.so;slot-id=0?pin-value=123456")

    assert (uri.module_path, uri.slot_id, uri.pin_value) == ("libsofthsm2.so", 0, "123456")


def test_pin_is_not_shown() -> None:
    uri = TokenUri.parse("pkcs11:token=a?pin-value=secret-pin")

    assert "secret" not in repr(uri) + uri.public_text + uri.text()
    assert "pin-value=secret-pin" in uri.text(pin=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pkcs12:",
        "pkcs11",
        "pkcs11:token",
        "pkcs11:label=a",
        "pkcs11:token=a;token=b",
        "pkcs11:token=a%2",
        "pkcs11:token=%zz",
        "pkcs11:token=%ff",
        "pkcs11:token=a%00b",
        "pkcs11:token=a\nb",
        "pkcs11:type=key",
        "pkcs11:slot-id=-1",
        "pkcs11:slot-id=x",
        "pkcs11:token=a?module-path",
        "pkcs11:token=" + "a" * 3000,
    ],
)
def test_what_is_no_uri_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="PKCS#11 URI"):
        TokenUri.parse(text)
    assert lint(text) != []


def test_unknown_vendor_attributes_are_ignored() -> None:
    assert TokenUri.parse("pkcs11:token=a;x-vendor=1").token == "a"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("pkcs11:token=a;label=b", "label= is not known: RFC 7512 calls it object="),
        ("pkcs11:token=a;object=b", "type=private is missing"),
        ("pkcs11:object=b;type=private", "no token is named"),
        ("pkcs11:slot-id=3;object=b;type=private", "slot-id may change"),
        ("pkcs11:token=a;id=01;type=private", "means the characters themselves"),
        ("pkcs11:token=a b;object=b;type=private", "must be percent-encoded: a%20b"),
        ("pkcs11:token=a;object=b;type=private?pin-value=1", "pin-value stands in clear"),
        ("pkcs11:token=a;object=b;type=private;module-path=/x", "behind a question mark"),
        ("pkcs11:token=a;object=b;type=privat", "type=privat is not one of"),
    ],
)
def test_advice_names_the_fault(text: str, advice: str) -> None:
    assert any(advice in line for line in lint(text)), lint(text)


def test_good_uri_gets_no_advice() -> None:
    assert lint("pkcs11:token=prod%20hsm;object=site;type=private?module-path=/usr/lib/x.so") == []
