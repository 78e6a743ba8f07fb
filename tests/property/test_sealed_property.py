"""Sealed files under any change: refused, never half read, and no other exception than ours."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.fake_tang import FakeTang
from support.secrets import revealed, secret

from unlatch.bootstrap import jose, seal
from unlatch.bootstrap.advertisement import Advertisement
from unlatch.bootstrap.open import recover_content_key
from unlatch.bootstrap.policy import parse_any_policy
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import ConfigError, DamagedFileError, UnlatchError, UntrustedGateError
from unlatch.memguard._native import (
    Bundle,
    BundleWriter,
    Secret,
    exchange_answer,
    jwe_open,
    sss_combine,
    sss_split,
)

TANG = FakeTang(curve="P-256")
TARGET = seal.TangTarget(TANG.url, tuple(TANG.keys), TANG.exchange_public, "pinned")
SIMPLE = seal.encrypt(secret(b"payload"), TARGET)
SHARED = seal.encrypt(secret(b"payload"), seal.SssTarget(2, (TARGET, TARGET, TARGET)))
ADVERTISEMENT = TANG.advertisement()

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def opened(jwe: bytes) -> bytes:
    sealed = SealedFile.parse(jwe)
    return revealed(jwe_open(sealed.compact, recover_content_key(sealed, transport=TANG)))


@given(place=st.integers(0, len(SIMPLE) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_is_refused(place: int, byte: int) -> None:
    changed = SIMPLE[:place] + bytes([byte]) + SIMPLE[place + 1 :]
    # White space at either end is no part of the file; a cut there is caught as a missing character.
    if changed == SIMPLE:
        return
    try:
        opened(changed)
    except UnlatchError:
        return
    raise AssertionError(f"byte {place} as {byte} opened")


@given(cut=st.integers(0, len(SHARED) - 1))
def test_any_cut_file_is_refused(cut: int) -> None:
    try:
        opened(SHARED[:cut])
    except UnlatchError:
        return
    raise AssertionError(f"cut at {cut} opened")


@given(st.binary(max_size=400) | st.text(alphabet='eyJ.{}":,A_-=\n', max_size=200).map(str.encode))
def test_arbitrary_bytes_are_no_sealed_file(data: bytes) -> None:
    try:
        SealedFile.parse(data)
    except DamagedFileError:
        return
    raise AssertionError("parsed")


@given(
    header=st.dictionaries(
        st.sampled_from(["alg", "enc", "clevis", "kid", "epk", "zip", "cty", "unlatch"]), JSON
    )
)
def test_arbitrary_headers_raise_only_our_errors(header: dict[str, Any]) -> None:
    tail = SIMPLE.split(b".", 1)[1]
    try:
        sealed = SealedFile.parse(jose.encode(jose.write_json(header)).encode() + b"." + tail)
        recover_content_key(sealed, transport=TANG)
    except UnlatchError:
        return
    raise AssertionError("opened")


@given(
    where=st.sampled_from(
        [("clevis", "sss", "t"), ("clevis", "sss", "p"), ("clevis", "sss", "jwe"), ("clevis", "pin")]
    ),
    value=JSON,
)
def test_arbitrary_members_of_a_sharing_raise_only_our_errors(where: tuple[str, ...], value: object) -> None:
    protected, tail = SHARED.split(b".", 1)
    header: Any = jose.read_json(jose.decode(protected.decode()))
    holder = header
    for name in where[:-1]:
        holder = holder[name]
    holder[where[-1]] = value
    try:
        recover_content_key(
            SealedFile.parse(jose.encode(jose.write_json(header)).encode() + b"." + tail), transport=TANG
        )
    except UnlatchError:
        return
    raise AssertionError("opened")


@given(st.binary(max_size=300))
def test_what_is_sealed_comes_out_again(plaintext: bytes) -> None:
    assert opened(seal.encrypt(secret(plaintext), TARGET)) == plaintext


@given(JSON)
def test_json_survives_writing_and_reading(value: object) -> None:
    try:
        written = jose.write_json(value)
    except UnicodeEncodeError:
        return  # lone surrogates are no text

    assert jose.read_json(written) == value


@given(st.binary(max_size=64))
def test_base64url_survives_writing_and_reading(data: bytes) -> None:
    assert jose.decode(jose.encode(data)) == data


@given(st.text(max_size=40))
def test_base64url_has_one_spelling(text: str) -> None:
    try:
        data = jose.decode(text)
    except ValueError:
        return

    assert jose.encode(data) == text


@given(place=st.integers(0, len(ADVERTISEMENT) - 1), byte=st.integers(33, 126))
def test_any_changed_byte_of_an_advertisement_is_refused(place: int, byte: int) -> None:
    changed = ADVERTISEMENT[:place] + bytes([byte]) + ADVERTISEMENT[place + 1 :]
    if changed == ADVERTISEMENT:
        return
    try:
        Advertisement.parse(changed)
    except UntrustedGateError:
        return
    raise AssertionError(f"byte {place} as {byte} was trusted")


@given(st.binary(max_size=300) | JSON.map(jose.write_json))
def test_arbitrary_bytes_are_no_advertisement(data: bytes) -> None:
    try:
        Advertisement.parse(data)
    except UntrustedGateError:
        return
    raise AssertionError("trusted")


@given(st.lists(JSON, min_size=1, max_size=4))
def test_arbitrary_signed_keys_raise_only_our_errors(keys: list[object]) -> None:
    try:
        Advertisement.parse(TANG.sign(jose.write_json({"keys": [*TANG.keys, *keys]})))
    except UntrustedGateError:
        return


@given(st.binary(max_size=200) | JSON.map(jose.write_json))
def test_arbitrary_points_raise_only_our_errors(point: bytes) -> None:
    try:
        exchange_answer(TANG.exchange, point)
    except UntrustedGateError:
        return
    raise AssertionError("answered")


@given(st.text(max_size=60) | JSON.map(lambda value: jose.write_json(value).decode()))
def test_arbitrary_policies_raise_only_our_errors(text: str) -> None:
    try:
        parse_any_policy(text)
    except ConfigError:
        return


@given(st.binary(max_size=200) | JSON.map(jose.write_json))
def test_arbitrary_bytes_are_no_bundle(data: bytes) -> None:
    try:
        Bundle(secret(data))
    except DamagedFileError:
        return
    raise AssertionError("parsed")


@given(
    st.dictionaries(
        st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,20}\Z"), st.text(min_size=1, max_size=50), min_size=1
    )
)
def test_tokens_survive_a_bundle(tokens: dict[str, str]) -> None:
    writer = BundleWriter()
    kept: dict[str, bytes] = {}
    for name, token in tokens.items():
        try:
            data = token.encode()
            writer.add_token(name, secret(data), None)
        except (ConfigError, UnicodeEncodeError):
            continue
        kept[name] = data
    if not kept:
        return

    bundle = Bundle(writer.finish(["ssh-ed25519 AAAA mara"]))

    assert {name: revealed(bundle.secret(name)) for name in kept} == kept


PRIME, KEY, SHARES = sss_split(2, 2)


@given(
    prime=st.binary(min_size=32, max_size=32),
    shares=st.lists(st.binary(min_size=60, max_size=66), max_size=3),
)
def test_arbitrary_shares_raise_only_our_errors(prime: bytes, shares: list[bytes]) -> None:
    try:
        assert len(sss_combine(prime, [Secret.copy_from(share) for share in shares])) == 32
    except DamagedFileError:
        return
