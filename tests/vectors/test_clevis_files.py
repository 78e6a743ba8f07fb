"""JWEs that the real clevis made open with the recorded server keys."""

import base64
from typing import Any

import pytest
from support.fake_tang import VectorTang
from support.secrets import revealed, secret
from support.vectors import load, named, server_keys

from unlatch.bootstrap import jose
from unlatch.bootstrap.open import recover_content_key
from unlatch.bootstrap.pins import tree
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import DamagedFileError, UnlatchError
from unlatch.memguard._native import Exchange, exchange_answer, jwe_open

TANG = load("clevis_tang")["vectors"]
SSS = load("clevis_sss")["vectors"]
OTHERS = [vector for name in ("clevis_null_file",) for vector in load(name)["vectors"] if "jwe" in vector]


def opened(jwe: str) -> bytes:
    sealed = SealedFile.parse(jwe.encode())
    key = recover_content_key(sealed, transport=VectorTang(server_keys()), allow_null=True)
    return revealed(jwe_open(sealed.compact, key))


@pytest.mark.parametrize("vector", named([v for v in TANG + SSS if not v.get("clevis_decrypt_exit")], "desc"))
def test_clevis_file_opens_to_the_recorded_plaintext(vector: dict[str, Any]) -> None:
    assert opened(vector["jwe"]) == base64.b64decode(vector["plaintext_b64"])


@pytest.mark.parametrize("vector", named([v for v in SSS if v.get("clevis_decrypt_exit")], "desc"))
def test_too_few_shares_do_not_open(vector: dict[str, Any]) -> None:
    with pytest.raises(UnlatchError):
        opened(vector["jwe"])


@pytest.mark.parametrize("vector", named(TANG, "desc"))
def test_content_key_is_the_recorded_one(vector: dict[str, Any]) -> None:
    sealed = SealedFile.parse(vector["jwe"].encode())

    key = recover_content_key(sealed, transport=VectorTang(server_keys()))

    assert jose.encode(revealed(key)) == vector["cek"]


@pytest.mark.parametrize("vector", named([v for v in TANG if "kid S1" not in v["desc"]], "desc"))
def test_clevis_header_is_written_back_byte_for_byte(vector: dict[str, Any]) -> None:
    sealed = SealedFile.parse(vector["jwe"].encode())

    assert jose.write_json(sealed.header) == sealed.header_json


@pytest.mark.parametrize("vector", named(TANG + SSS, "desc"))
def test_a_flipped_bit_of_the_ciphertext_or_tag_is_refused(vector: dict[str, Any]) -> None:
    head, _, tag = vector["jwe"].rpartition(".")
    changed = bytearray(jose.decode(tag))
    changed[0] ^= 1

    with pytest.raises(UnlatchError):
        opened(f"{head}.{jose.encode(bytes(changed))}")


@pytest.mark.parametrize("vector", named(OTHERS, "pin", "desc"))
def test_other_pins_are_named_but_not_opened(vector: dict[str, Any]) -> None:
    sealed = SealedFile.parse(vector["jwe"].encode())

    assert isinstance(sealed.pin, tree.UnknownPin | tree.NullPin)
    with pytest.raises(DamagedFileError):
        recover_content_key(sealed, transport=VectorTang(server_keys()))


def test_exchange_of_a_vector_runs_with_the_native_server_side() -> None:
    sealed = SealedFile.parse(TANG[0]["jwe"].encode())
    assert isinstance(sealed.pin, tree.TangPin)
    private = jose.find_by_thumbprint(sealed.pin.kid, server_keys())
    assert private is not None
    exchange = Exchange(sealed.header_json, jose.write_json(sealed.pin.exchange_key))

    answer = exchange_answer(secret(jose.write_json(private)), exchange.request)

    assert jose.encode(revealed(exchange.finish(answer))) == TANG[0]["cek"]
