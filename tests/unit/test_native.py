"""The extension: secrets that show nothing, errors with their hints, and the native format against jwcrypto."""

import copy
import json
import os
import pickle
from typing import Any

import pytest
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS
from support.secrets import revealed, secret

from unlatch.bootstrap import jose
from unlatch.errors import ConfigError, DamagedFileError, UntrustedGateError
from unlatch.memguard import _native
from unlatch.memguard._native import (
    Bundle,
    BundleWriter,
    Exchange,
    Secret,
    content_key_from_jwk,
    content_key_to_jwk,
)

HEADER = b'{"kid":"x"}'


def test_secret_shows_nothing_and_is_not_copied() -> None:
    value = secret(b"correct horse")

    assert "correct" not in repr(value) + str(value)
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copying(value)
    with pytest.raises(TypeError):
        bytes(value)  # type: ignore[call-overload]


def test_view_ends_with_its_block_and_is_read_only() -> None:
    with secret(b"abc").expose() as view:
        assert view.tobytes() == b"abc"
        with pytest.raises(TypeError):
            view[0] = 1
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_slice_that_outlives_its_block_keeps_the_secret_from_being_wiped() -> None:
    value = secret(b"abc")
    with value.expose() as view:
        rest = view[1:]
    with pytest.raises(ConfigError, match="in use"):
        value.wipe()
    rest.release()

    value.wipe()


def test_wiped_secret_is_refused_and_exposed_one_is_not_wiped() -> None:
    value = secret(b"abc")
    with value.expose(), pytest.raises(ConfigError, match="in use"):
        value.wipe()
    value.wipe()
    value.wipe()

    for use in (value.expose, value.__len__):
        with pytest.raises(ConfigError, match="wiped"):
            use()


def test_descriptors_carry_secrets_both_ways() -> None:
    read_end, write_end = os.pipe()
    secret(b"x" * 10_000).write_fd(write_end)
    os.close(write_end)

    assert revealed(Secret.read_fd(read_end, 10_000)) == b"x" * 10_000
    os.close(read_end)


def test_descriptor_with_too_much_is_refused() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"x" * 11)
    os.close(write_end)

    with pytest.raises(ConfigError, match="more than 10 bytes"):
        Secret.read_fd(read_end, 10)
    os.close(read_end)


def test_one_line_is_read_and_the_rest_left() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"answer\nnext")
    os.close(write_end)

    assert revealed(Secret.read_line_fd(read_end, 100)) == b"answer"
    assert os.read(read_end, 100) == b"next"
    os.close(read_end)


@pytest.mark.parametrize(
    ("given", "kept"), [(b"a\n", b"a"), (b"a\r\n", b"a"), (b"a\n\n", b"a\n"), (b"a", b"a"), (b"", b"")]
)
def test_one_trailing_newline_is_dropped(given: bytes, kept: bytes) -> None:
    value = secret(given)
    value.strip_newline()

    assert revealed(value) == kept


def test_closed_descriptor_is_an_os_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        secret(b"x").write_fd(10_000)


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
def test_jwcrypto_opens_what_was_sealed_to_a_key(curve: str) -> None:
    private, public = _native.exchange_key_generate(curve)
    jwe = JWE()
    jwe.deserialize(_native.jwe_seal_to(HEADER, secret(b"hello"), public).decode())
    plain = {
        name: value for name, value in json.loads(revealed(private)).items() if name not in ("alg", "key_ops")
    }

    jwe.decrypt(JWK(**plain))

    assert jwe.payload == b"hello"


@pytest.mark.parametrize("enc", ["A256GCM", "A128GCM"])
@pytest.mark.parametrize("party", [{}, {"apu": "QWxpY2U", "apv": "Qm9i"}])
def test_what_jwcrypto_sealed_to_a_key_opens_by_exchange_and_offline(enc: str, party: dict[str, str]) -> None:
    private, public = _native.exchange_key_generate("P-521")
    recipient = {name: value for name, value in json.loads(public).items() if name not in ("alg", "key_ops")}
    made = JWE(b"hello", json.dumps({"alg": "ECDH-ES", "enc": enc, **party}), recipient=JWK(**recipient))  # type: ignore[arg-type]  # the stub knows only JSON
    compact = made.serialize(compact=True).encode()
    header = jose.decode(compact.split(b".")[0].decode())
    exchange = Exchange(header, public)

    keys = [
        exchange.finish(_native.exchange_answer(private, exchange.request)),
        _native.derive_content_key(header, private),
    ]

    assert [revealed(_native.jwe_open(compact, key)) for key in keys] == [b"hello", b"hello"]


def test_jwcrypto_opens_what_was_sealed_with_a_key() -> None:
    key = Secret.random(32)
    jwe = JWE()
    jwe.deserialize(_native.jwe_seal(HEADER, secret(b"hello"), key).decode())

    jwe.decrypt(JWK(kty="oct", k=jose.encode(revealed(key))))

    assert jwe.payload == b"hello"


@pytest.mark.parametrize(("curve", "alg"), [("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512")])
def test_jwcrypto_verifies_signatures(curve: str, alg: str) -> None:
    private, public = _native.signing_key_generate(curve)
    head, body = jose.encode(json.dumps({"alg": alg}).encode()), jose.encode(b"message")
    signature = _native.signing_key_sign(private, f"{head}.{body}".encode())
    jws = JWS()
    jws.deserialize(f"{head}.{body}.{jose.encode(signature)}")

    jws.verify(JWK.from_json(public.decode()))

    assert jws.payload == b"message"


def test_header_is_written_sorted_and_compact() -> None:
    _, public = _native.exchange_key_generate("P-256")
    jwe = _native.jwe_seal_to(b'{ "kid": "x", "cty": "a/b", "clevis": {"pin": "p"} }', secret(b""), public)
    header = jose.decode(jwe.split(b".")[0].decode())

    assert header == jose.write_json(jose.read_json(header))
    assert header.startswith(
        b'{"alg":"ECDH-ES","clevis":{"pin":"p"},"cty":"a/b","enc":"A256GCM","epk":{"crv":'
    )


@pytest.mark.parametrize("member", ["alg", "enc", "epk", "zip", "crit"])
def test_header_that_brings_its_own_algorithms_is_refused(member: str) -> None:
    _, public = _native.exchange_key_generate("P-256")

    with pytest.raises(DamagedFileError, match=member):
        _native.jwe_seal_to(json.dumps({member: "x"}).encode(), secret(b""), public)


def test_verify_agrees_with_open() -> None:
    key, other = Secret.random(32), Secret.random(32)
    for size in (0, 1, 15, 16, 17, 1000):
        jwe = _native.jwe_seal(HEADER, secret(b"x" * size), key)
        _native.jwe_verify(jwe, key)
        with pytest.raises(DamagedFileError, match="tag"):
            _native.jwe_verify(jwe, other)
        with pytest.raises(DamagedFileError, match="tag"):
            _native.jwe_open(jwe, other)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_content_key_of_another_length_is_refused(size: int) -> None:
    jwe = _native.jwe_seal(HEADER, secret(b"x"), Secret.random(32))

    for use in (_native.jwe_open, _native.jwe_verify):
        with pytest.raises(DamagedFileError, match="content key"):
            use(jwe, Secret.random(size))


def test_every_error_has_a_hint_where_there_is_a_next_step() -> None:
    with pytest.raises(DamagedFileError) as caught:
        _native.jwe_open(b"x", Secret.random(32))

    assert (
        caught.value.hint
        == "the file is cut short, altered, or no sealed file: fetch it again from where it was sealed"
    )


def test_key_for_signing_does_not_exchange_and_the_other_way_round() -> None:
    exchange, public = _native.exchange_key_generate("P-256")
    signing, _ = _native.signing_key_generate("P-256")

    with pytest.raises(ConfigError):
        _native.exchange_answer(signing, public)
    with pytest.raises(ConfigError):
        _native.signing_key_sign(exchange, b"")


@pytest.mark.parametrize(
    "point",
    [
        b"",
        b'{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}',
        b'{"kty":"EC","crv":"P-384","x":"%s","y":"%s"}' % (b"A" * 64, b"A" * 64),
    ],
)
def test_clients_bad_point_is_refused(point: bytes) -> None:
    private, _ = _native.exchange_key_generate("P-256")

    with pytest.raises(UntrustedGateError):
        _native.exchange_answer(private, point)


def test_point_of_another_curve_is_refused() -> None:
    private, _ = _native.exchange_key_generate("P-256")
    _, other = _native.exchange_key_generate("P-384")

    with pytest.raises(UntrustedGateError, match="curve"):
        _native.exchange_answer(private, other)


def test_every_threshold_of_a_sharing_opens_and_less_does_not() -> None:
    from itertools import combinations

    prime, key, shares = _native.sss_split(3, 5)

    assert all(
        revealed(_native.sss_combine(prime, list(some))) == revealed(key) for some in combinations(shares, 3)
    )
    assert revealed(_native.sss_combine(prime, shares[:2])) != revealed(key)


@pytest.mark.parametrize(("threshold", "count"), [(0, 1), (2, 1), (1, 256), (0, 0)])
def test_impossible_sharing_is_refused(threshold: int, count: int) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        _native.sss_split(threshold, count)


def test_repeated_share_and_even_prime_are_refused() -> None:
    prime, _, shares = _native.sss_split(2, 2)

    for wrong in ([shares[0], shares[0]], [], [secret(b"\xff" * 64)], [secret(b"x")]):
        with pytest.raises(DamagedFileError, match="share"):
            _native.sss_combine(prime, wrong)
    for wrong_prime in (prime[:-1] + b"\0", b"", prime[1:], b"\0" * 32, b"\0" * 31 + b"\1"):
        with pytest.raises(DamagedFileError, match="prime"):
            _native.sss_combine(wrong_prime, shares)


def bundle(*tokens: tuple[str, bytes]) -> Bundle:
    writer = BundleWriter()
    for name, value in tokens:
        writer.add_token(name, secret(value), None)
    return Bundle(writer.finish([]))


@pytest.mark.parametrize("token", [b'a"b\\c/d', "\u00fc\u4e2d\U0001f511".encode(), b"x" * 65536])
def test_token_comes_out_as_it_went_in(token: bytes) -> None:
    assert revealed(bundle(("t", token)).secret("t")) == token


@pytest.mark.parametrize("token", [b"", b"a\nb", b"a\0b", b"\xff", b"x" * 65537, b"\x7f"])
def test_token_that_no_header_can_carry_is_refused(token: bytes) -> None:
    with pytest.raises(ConfigError, match="token"):
        bundle(("t", token))


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 65, ".x", "a/b", '"'])
def test_strange_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        bundle((name, b"token"))


def test_taken_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="name"):
        bundle(("a", b"1"), ("a", b"2"))


def test_description_holds_everything_but_the_secrets() -> None:
    described: Any = jose.read_json(bundle(("a", b"hush")).describe())

    assert described["secrets"] == [
        {"algorithm": None, "kind": "token", "name": "a", "unbound": True, "use": None}
    ]
    assert len(jose.decode(described["set"])) == 32


def test_finished_writer_and_missing_secret_are_refused() -> None:
    writer = BundleWriter()
    with pytest.raises(DamagedFileError, match="no secret"):
        writer.finish([])
    with pytest.raises(ConfigError, match="finished"):
        writer.finish([])
    with pytest.raises(ConfigError, match="no secret of this name"):
        bundle(("a", b"1")).secret("b")


def test_content_key_survives_the_jwk_that_hardware_wraps() -> None:
    key = Secret.random(32)

    text = content_key_to_jwk(key)

    assert revealed(content_key_from_jwk(text)) == revealed(key)
    assert json.loads(revealed(text)).keys() == {"alg", "k", "key_ops", "kty"}


@pytest.mark.parametrize("text", [b"", b"{}", b'{"kty":"oct","k":"!"}', b'{"kty":"EC","k":"AA"}'])
def test_what_is_no_symmetric_jwk_is_refused(text: bytes) -> None:
    with pytest.raises(DamagedFileError, match="no content key"):
        content_key_from_jwk(secret(text))
