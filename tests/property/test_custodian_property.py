"""A custodian's messages under random input."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from unlatch.errors import ConfigError
from unlatch.memguard.custodian import handshake, tpm_public
from unlatch.memguard.custodian.handshake import NotAHandshakeError
from unlatch.memguard.custodian.protocol import MalformedError, Message
from unlatch.memguard.custodian.settings import Settings

MESSAGES = st.builds(
    Message,
    operation=st.integers(0, 255),
    key=st.integers(0, 65535),
    request_id=st.integers(0, (1 << 32) - 1),
    payload=st.binary(max_size=300),
)


@given(MESSAGES)
def test_message_survives_encoding(message: Message) -> None:
    assert Message.decode(message.encode()) == message


@given(st.binary(max_size=100))
def test_bytes_are_a_message_or_refused(data: bytes) -> None:
    with suppress(MalformedError):
        assert Message.decode(data).encode() == data


@given(st.binary(max_size=200) | st.binary(max_size=140).map((bytes(64) + b"\3\0\x17\x41").__add__))
def test_random_bytes_are_no_handshake(data: bytes) -> None:
    with suppress(NotAHandshakeError):
        assert handshake.check(data) in ("tls12", "tls13")


@given(st.binary(max_size=300))
def test_tpm_public_area_is_read_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        tpm_public.public_key_of(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["kind", "keys", "module", "id", "name", "uri", "pem", "sessions", "files", "sockets", "token"]), inner, max_size=5),
    max_leaves=10,
)  # fmt: skip


@given(JSON)
def test_configuration_is_read_or_refused(value: object) -> None:
    import json

    with suppress(ConfigError):
        Settings.parse(json.dumps(value).encode())
