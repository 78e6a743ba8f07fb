"""Names and files of keys in hardware under random input."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from unlatch.errors import ConfigError
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
