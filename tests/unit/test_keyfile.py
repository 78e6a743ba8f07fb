"""Files that name a key in hardware."""

import base64

import pytest

from unlatch.errors import ConfigError
from unlatch.memguard.custodian import keyfile
from unlatch.memguard.custodian.keyfile import TokenKey, TpmKey
from unlatch.memguard.custodian.uri import TokenUri

URI = TokenUri(token="prod", object="site", type="private")
TPM = TpmKey(0x40000001, b"\0\3abc", b"\0\2xy")
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
# TEST ONLY: made by `openssl genpkey -provider tpm2 -algorithm EC -pkeyopt group:P-384`, tpm2-openssl 1.1.1
FROM_OPENSSL = b"""-----BEGIN TSS2 PRIVATE KEY-----
MIIBIAYGZ4EFCgEDoAMBAQECBEAAAAEEeAB2ACMACwAGAHIAAAAQABAABAAQADC9
OPmflcF6TMFqc4NYoITN826ozfoFQd7mev/e1yHJBs2ZP1AQYld58rKu3oxXDucA
MMGcYg/P8kT+ynyp8yBp76kN/MFz33AePQM4t3T16TuWLZoEcqMKV1iDuWkfDvhL
rgSBkACOACChX2jtTYUmKBoHbyu/K01cxiQwlZw7fVaB6EM8idYCKwAQFN6vgbCH
e7yX1GBkiQLYLhDnz5gr+TW8hHleAN+MhYNnvKQM5csjsBhH/n+ilNmC/jmEpuu7
/NjLPpn14z3YViAoiuro6v6tQmfPmJXcMBfjMXU4gi0xZR6sDZEYZDdUa21O3W5z
B24CKA==
-----END TSS2 PRIVATE KEY-----
"""

# The example of HAProxy's wiki, "OpenSSL Providers in HAProxy", section PKCS11 Provider (with its typing error).
FROM_THE_WIKI = b"""-----BEGIN PKCS#11 PROVIDER URI-----
MF0aGVBLQ1MjMTEgUHJvdmlkZXIgVVJJIHYxLjAMQHBrY3MxMTp0b2tlbj1OU1Ml
MjBDZXJ0ZmlpY2F0ZSUyMERCO2lkPSUwMSUwMiUwMyUwNDt0eXBlPXByaXZhdGU=
-----END PKCS#11 PROVIDER URI-----
"""


def test_example_of_haproxy_s_wiki_is_read() -> None:
    key = keyfile.find(FROM_THE_WIKI)

    assert isinstance(key, TokenKey)
    assert key.uri == TokenUri(token="NSS Certfiicate DB", id=b"\1\2\3\4", type="private")
    as_they_order_it = der_of(FROM_THE_WIKI)[31:].decode()
    assert TokenUri.parse(as_they_order_it) == key.uri


def der_of(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


@pytest.mark.parametrize("before", [b"", CERTIFICATE])
@pytest.mark.parametrize("after", [b"", CERTIFICATE])
def test_key_is_found_anywhere_in_a_file(before: bytes, after: bytes) -> None:
    assert keyfile.find(before + keyfile.write_uri(URI) + after) == TokenKey(URI)
    assert keyfile.find(before + keyfile.write_tpm(TPM) + after) == TpmKey(0x40000001, b"\0\3abc", b"\0\2xy")


def test_key_of_tpm2_openssl_is_read() -> None:
    key = keyfile.find(FROM_OPENSSL)

    assert isinstance(key, TpmKey)
    assert key.parent == 0x40000001
    assert key.public[:4] == bytes.fromhex("00760023")
    assert key.private[:4] == bytes.fromhex("008e0020")
    assert not key.needs_password


def test_password_is_noted() -> None:
    key = TpmKey(0x81000001, b"\0\0", b"\0\0", needs_password=True)

    assert keyfile.find(keyfile.write_tpm(key)) == key


def test_two_lines_of_haproxy_are_read_with_advice() -> None:
    key = keyfile.find(b"engine = pkcs11\nprivate_key = pkcs11:token=prod;object=site;type=private\n")

    assert isinstance(key, TokenKey)
    assert key.uri == URI
    assert "unlatch hsm pem" in str(key.advice)


def test_bare_uri_is_read() -> None:
    assert keyfile.find(b"pkcs11:token=prod;object=site;type=private\n") == TokenKey(URI)


@pytest.mark.parametrize(
    "data", [b"", CERTIFICATE, b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"]
)
def test_file_without_such_a_key_names_none(data: bytes) -> None:
    assert keyfile.find(data) is None


def test_pin_is_not_written() -> None:
    with_pin = TokenUri(token="prod", pin_value="hush-hush")

    body = b"".join(keyfile.write_uri(with_pin).splitlines()[1:-1])

    assert b"hush" not in base64.b64decode(body)


def test_long_lengths_as_other_writers_use_them_are_read() -> None:
    uri = b"pkcs11:token=prod;object=site;type=private"
    inner = b"\x1a\x82\x00\x19" + keyfile.DESCRIPTION + b"\x0c\x82" + len(uri).to_bytes(2, "big") + uri
    data = b"\x30\x82" + len(inner).to_bytes(2, "big") + inner

    assert keyfile.parse_der(keyfile.URI_LABEL, data) == TokenKey(URI)


def damaged() -> list[bytes]:
    good_uri, good_tpm = keyfile.write_uri(URI), keyfile.write_tpm(TPM)
    return [
        good_uri + good_tpm,
        good_uri + good_uri,
        good_uri.replace(b"MEca", b"MEcb", 1),
        good_tpm.replace(b"\n-----END", b"AAAA\n-----END"),
        good_tpm.replace(b"MCAG", b"M!AG", 1),
        b"engine = pkcs11\n",
        b"engine = tpm2tss\nprivate_key = /x\n",
        b"pkcs11:label=x",
        b"-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n",
    ]


@pytest.mark.parametrize("data", damaged())
def test_damaged_or_ambiguous_files_are_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        keyfile.find(data)


def test_key_with_a_policy_is_refused() -> None:
    from unlatch.memguard.custodian import der

    body = der.element(
        der.SEQUENCE,
        der.element(der.OBJECT_IDENTIFIER, keyfile.LOADABLE_KEY),
        der.element(der.context(1), der.element(der.SEQUENCE)),
        der.unsigned(0x40000001),
        der.element(der.OCTET_STRING, b"x"),
        der.element(der.OCTET_STRING, b"y"),
    )
    with pytest.raises(ConfigError, match="policy"):
        keyfile.parse_der(keyfile.TPM_LABEL, body)
