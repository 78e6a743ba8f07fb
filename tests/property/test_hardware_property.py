"""Names and files of keys in hardware under random input."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from unlatch.bootstrap import jose
from unlatch.bootstrap.pins import pkcs11_header, signed_pcrs, tpm2_header
from unlatch.bootstrap.pins.signed_pcrs import SignedPcrs
from unlatch.bootstrap.policy import parse_policy
from unlatch.errors import ConfigError, DamagedFileError
from unlatch.memguard.custodian import keyfile
from unlatch.memguard.custodian.keyfile import TokenKey, TpmKey
from unlatch.memguard.custodian.uri import TYPES, TokenUri, lint

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
MAYBE = st.none() | TEXTS
URIS = st.builds(
    TokenUri,
    token=MAYBE,
    manufacturer=MAYBE,
    serial=MAYBE,
    model=MAYBE,
    object=MAYBE,
    id=st.none() | st.binary(min_size=1, max_size=20),
    type=st.none() | st.sampled_from(TYPES),
    slot_id=st.none() | st.integers(0, 1 << 60),
    module_path=MAYBE,
    module_name=MAYBE,
    pin_source=MAYBE,
)
TPM_KEYS = st.builds(
    TpmKey,
    parent=st.integers(0, (1 << 32) - 1),
    public=st.binary(max_size=400),
    private=st.binary(max_size=400),
    needs_password=st.booleans(),
)


@given(URIS)
def test_uri_survives_writing(uri: TokenUri) -> None:
    text = uri.text()

    assert len(text) > 2048 or TokenUri.parse(text) == uri
    assert text.isascii()


@given(st.text(max_size=200).map("pkcs11:".__add__) | st.text(max_size=50))
def test_uri_is_read_or_refused(text: str) -> None:
    lint(text)
    with suppress(ConfigError):
        uri = TokenUri.parse(text)
        assert TokenUri.parse(uri.text(pin=True)) == uri


@given(URIS.filter(lambda uri: len(uri.text()) < 2000), st.binary(max_size=50), st.binary(max_size=50))
def test_uri_is_found_in_a_file(uri: TokenUri, before: bytes, after: bytes) -> None:
    clean = [part.replace(b"-", b"").replace(b"=", b"").replace(b"pkcs11:", b"") for part in (before, after)]

    assert keyfile.find(clean[0] + b"\n" + keyfile.write_uri(uri) + clean[1]) == TokenKey(uri)


@given(TPM_KEYS)
def test_tpm_key_survives_writing(key: TpmKey) -> None:
    assert keyfile.find(keyfile.write_tpm(key)) == key


@given(st.sampled_from([keyfile.URI_LABEL, keyfile.TPM_LABEL]), st.binary(max_size=200))
def test_anything_inside_pem_is_read_or_refused(label: str, data: bytes) -> None:
    with suppress(ConfigError):
        keyfile.parse_der(label, data)


@given(TPM_KEYS, st.data())
def test_changed_key_is_read_or_refused(key: TpmKey, data: st.DataObject) -> None:
    from base64 import b64decode

    body = bytearray(b64decode(b"".join(keyfile.write_tpm(key).splitlines()[1:-1])))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    with suppress(ConfigError):
        keyfile.parse_der(keyfile.TPM_LABEL, bytes(body))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 40)
    | st.text(max_size=12)
    | st.binary(max_size=40).map(jose.encode),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
TPM_MEMBERS = ("hash", "key", "jwk_pub", "jwk_priv", "pcr_bank", "pcr_ids", "authority", "reference")
TOKEN_MEMBERS = ("uri", "key", "mechanism", "key_digest")
PCR_MEMBERS = ("bank", "pcrs", "values", "signature", "epoch", "for")


def members(*names: str) -> st.SearchStrategy[dict[str, object]]:
    """Objects with some known members."""
    plausible = st.sampled_from(["sha256", "ecc", "7,11", "pkcs11:token=a", "RSA-OAEP", "AAEC"])
    return st.dictionaries(st.sampled_from(names), plausible | JSON, max_size=len(names))


@given(members(*TPM_MEMBERS))
def test_tpm2_header_is_read_or_refused(found: dict[str, object]) -> None:
    for pin, parse in (("tpm2", tpm2_header.parse_tpm2), (tpm2_header.SIGNED_PIN, tpm2_header.parse_signed)):
        with suppress(DamagedFileError):
            parse({"clevis": {pin: found}})


@given(members(*TOKEN_MEMBERS))
def test_pkcs11_header_is_read_or_refused(found: dict[str, object]) -> None:
    for pin, parse in (
        ("pkcs11", pkcs11_header.parse_clevis),
        (pkcs11_header.OAEP_PIN, pkcs11_header.parse_oaep),
    ):
        with suppress(DamagedFileError):
            parse({"clevis": {pin: found}})


@given(members(*PCR_MEMBERS))
def test_signed_values_are_read_or_refused(found: dict[str, object]) -> None:
    with suppress(ConfigError):
        one = SignedPcrs.parse(found)
        assert signed_pcrs.read(signed_pcrs.write([one])) == [one]


@given(st.sampled_from(["tpm2", "pkcs11"]), members(*TPM_MEMBERS, *TOKEN_MEMBERS, "pcr_digest"))
def test_configuration_is_read_or_refused(pin: str, found: dict[str, object]) -> None:
    with suppress(ConfigError):
        parse_policy(pin, jose.write_json(found).decode())
