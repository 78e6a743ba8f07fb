"""Trusted gates: made from signed advertisements only, kept private, found by name or address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.receipts import ReceiptKey

from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.context import Context, find_context, list_contexts
from unlatch.errors import ConfigError, UntrustedGateError

KEY, OTHER = ReceiptKey(), ReceiptKey()
URL = "https://gate.example"
FACTS = {"origin": URL, "people": "https://people.example", "genesis": "G", "log": "L", "clock": "C"}


def advertisement(*signers: ReceiptKey, keys: list[dict[str, Any]] | None = None, **members: Any) -> bytes:
    """A JWS over the signers' keys (or others), signed by each of them."""
    payload = base64url.encode(
        json.dumps({"keys": [one.public for one in signers] if keys is None else keys} | members).encode()
    )
    signed = []
    for one in signers:
        protected = base64url.encode(json.dumps({"alg": one.algorithm, "cty": "jwk-set+json"}).encode())
        signature = base64url.encode(one.sign_bytes(f"{protected}.{payload}".encode()))
        signed.append({"protected": protected, "signature": signature})
    document = (
        {"payload": payload, **signed[0]} if len(signed) == 1 else {"payload": payload, "signatures": signed}
    )
    return json.dumps(document).encode()


def trusted(body: bytes, *, thumbprint: str | None = KEY.thumbprint, name: str = "home") -> Context:
    return Context.from_advertisement(body, name=name, url=URL, thumbprint=thumbprint)


def environ(folder: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(folder)}


def saved(folder: Path, name: str, **facts: str) -> Context:
    made = trusted(advertisement(KEY, unlatch=FACTS | facts), name=name)
    made.save(folder / "unlatch" / "gates")
    return made


def test_gate_is_trusted_by_its_pinned_key() -> None:
    found = trusted(advertisement(KEY, unlatch=FACTS))

    assert (found.url, found.people, found.trust, found.thumbprints) == (
        URL,
        FACTS["people"],
        "pinned",
        (KEY.thumbprint,),
    )


def test_two_keys_must_both_sign() -> None:
    assert trusted(advertisement(KEY, OTHER)).thumbprints == (KEY.thumbprint,)
    with pytest.raises(UntrustedGateError, match="each of its keys"):
        trusted(advertisement(KEY, keys=[KEY.public, OTHER.public]))


def test_another_gate_is_refused() -> None:
    with pytest.raises(UntrustedGateError, match="not signed by the pinned key"):
        trusted(advertisement(OTHER))


def test_key_that_signs_for_another_is_refused() -> None:
    with pytest.raises(UntrustedGateError):
        trusted(advertisement(OTHER, keys=[KEY.public]))


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{}", b"[]", b"\xff", b'{"payload":"e30"}', advertisement(KEY, keys=[])]
)
def test_bytes_that_are_no_advertisement_are_refused(body: bytes) -> None:
    with pytest.raises(UntrustedGateError):
        trusted(body, thumbprint=None)


def test_facts_that_were_changed_after_signing_are_refused() -> None:
    document = json.loads(advertisement(KEY, unlatch=FACTS))
    payload = json.loads(base64url.decode(document["payload"]))
    payload["unlatch"]["people"] = "https://evil.example"
    document["payload"] = base64url.encode(json.dumps(payload).encode())
    with pytest.raises(UntrustedGateError):
        trusted(json.dumps(document).encode())


def test_first_use_is_recorded_as_such() -> None:
    assert trusted(advertisement(KEY), thumbprint=None).trust == "first use"


def test_plain_tang_server_has_no_people() -> None:
    assert trusted(advertisement(KEY)).people is None


def test_context_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    made = saved(tmp_path, "home")
    path = tmp_path / "unlatch" / "gates" / "home.json"

    assert path.stat().st_mode & 0o777 == 0o600
    assert find_context("home", environ(tmp_path)) == made


def test_only_context_needs_no_name_and_several_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no gate is trusted yet"):
        find_context(None, environ(tmp_path))
    made = saved(tmp_path, "home")
    assert find_context(None, environ(tmp_path)) == made
    saved(tmp_path, "work", origin="https://work.example")
    with pytest.raises(ConfigError, match="several gates are trusted: home, work"):
        find_context(None, environ(tmp_path))
    assert [one.name for one in list_contexts(environ(tmp_path))] == ["home", "work"]


@pytest.mark.parametrize("address", [URL, f"{URL}/", f"{URL}/s/pay", "https://people.example"])
def test_context_is_found_by_its_addresses(tmp_path: Path, address: str) -> None:
    assert find_context(address, environ(tmp_path)).name == "home" if saved(tmp_path, "home") else False


def test_unknown_address_or_name_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "home")
    for name in ("https://other.example", "other"):
        with pytest.raises(ConfigError, match="trusted"):
            find_context(name, environ(tmp_path))


@pytest.mark.parametrize("name", ["../home", "", "Home", "a/b", ".home", "a" * 65, "home\n"])
def test_name_that_could_be_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no name"):
        find_context(name, environ(tmp_path))
    with pytest.raises(ConfigError, match="no name"):
        trusted(advertisement(KEY), name=name)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"name":1}', "\x00"])
def test_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "unlatch" / "gates"
    folder.mkdir(parents=True)
    (folder / "home.json").write_text(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        find_context("home", environ(tmp_path))
