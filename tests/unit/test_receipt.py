"""Receipts: by the pinned key, about this request, and leading nowhere else."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import rfc8785
from support.receipts import ReceiptKey

from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.receipt import (
    MAX_BYTES,
    Receipt,
    check_receipt,
    is_under,
    pinned_keys,
    split_gate_url,
    verify_receipt,
)
from unlatch.errors import UntrustedGateError

NOW, BASE = 1_800_000_000, "https://gate.example"
KEY = ReceiptKey()
RECEIPT = KEY.receipt(base=BASE, now=NOW)
TOKEN = KEY.sign(RECEIPT)
RIGHT: dict[str, Any] = {
    "base": BASE, "workload": "pay", "kid": RECEIPT.kid, "point": RECEIPT.point, "claims": None, "now": NOW,
}  # fmt: skip


def verified(token: bytes) -> Receipt:
    return verify_receipt(token, keys=[KEY.public])


@pytest.mark.parametrize("curve", ["P-256", "P-521"])
def test_receipt_of_the_pinned_key_is_read(curve: str) -> None:
    key = ReceiptKey(curve)
    receipt = key.receipt(base=BASE, now=NOW)

    assert verify_receipt(key.sign(receipt), keys=[KEY.public, key.public]) == receipt


def test_receipt_of_another_key_is_refused_and_both_are_named() -> None:
    with pytest.raises(UntrustedGateError) as caught:
        verify_receipt(ReceiptKey().sign(RECEIPT), keys=[ReceiptKey().public])
    assert KEY.thumbprint[:4] in str(caught.value)


def test_receipt_in_the_name_of_the_pinned_key_is_refused() -> None:
    forged = ReceiptKey().sign(RECEIPT)
    with pytest.raises(UntrustedGateError, match="signature is wrong"):
        verified(forged)


def test_any_flipped_character_is_refused() -> None:
    for place in range(0, len(TOKEN), 7):
        changed = TOKEN[:place] + (b"A" if TOKEN[place : place + 1] != b"A" else b"B") + TOKEN[place + 1 :]
        with pytest.raises(UntrustedGateError):
            verified(changed)


@pytest.mark.parametrize("algorithm", ["none", "ES256", "HS256", "RS256"])
def test_receipt_of_another_algorithm_is_refused(algorithm: str) -> None:
    with pytest.raises(UntrustedGateError):
        verified(KEY.sign(RECEIPT, algorithm=algorithm))


@pytest.mark.parametrize("header", [{"typ": "JWT"}, {"typ": None}, {"crit": ["b64"]}, {"jwk": KEY.public}])
def test_header_that_says_other_or_more_is_refused(header: dict[str, Any]) -> None:
    members = json.loads(base64url.decode(TOKEN.split(b".")[0].decode())) | header
    data = f"{base64url.encode(rfc8785.dumps(members))}.{TOKEN.split(b'.')[1].decode()}".encode()
    with pytest.raises(UntrustedGateError):
        verified(data + b"." + base64url.encode(KEY.sign_bytes(data)).encode())


@pytest.mark.parametrize(
    "token", [b"", b"..", b"a.b", b"a.b.c.d", b"<html>", b"{}", b"\xff.\xff.\xff", b"A" * (MAX_BYTES + 1)]
)
def test_bytes_that_are_no_receipt_are_refused(token: bytes) -> None:
    with pytest.raises(UntrustedGateError):
        verified(token)


@pytest.mark.parametrize(
    "name",
    [field.name for field in dataclasses.fields(Receipt) if field.name not in ("claims", "code", "identity")],
)
def test_payload_with_a_member_missing_or_of_another_type_is_refused(name: str) -> None:
    members = json.loads(RECEIPT.payload())
    wrong: list[Any] = [None, [], True, 1.5]
    for value in wrong:
        with pytest.raises(ValueError, match="missing"):
            Receipt.parse(json.dumps(members | {name: value}).encode())


@pytest.mark.parametrize(
    "extra", [{"more": 1}, {"code": "abcd-efgh"}, {"code": 7}, {"code": "BBBBBBBB"}, {"claims": 1}]
)
def test_payload_that_says_other_is_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Receipt.parse(json.dumps(json.loads(RECEIPT.payload()) | extra).encode())


def test_right_receipt_passes() -> None:
    check_receipt(RECEIPT, **RIGHT)


@pytest.mark.parametrize("name", ["workload", "kid", "point", "claims"])
def test_receipt_for_another_request_is_refused(name: str) -> None:
    with pytest.raises(UntrustedGateError, match=name):
        check_receipt(RECEIPT, **RIGHT | {name: "another"})


def test_receipt_is_out_of_date_at_exactly_its_second() -> None:
    check_receipt(RECEIPT, **RIGHT | {"now": RECEIPT.expires - 0.1})
    with pytest.raises(UntrustedGateError, match="out of date"):
        check_receipt(RECEIPT, **RIGHT | {"now": RECEIPT.expires})


@pytest.mark.parametrize(
    "address",
    [
        "https://other.example/r/A", "https://gate.example.evil/r/A", "https://gate.example@evil/r/A", "http://gate.example/r/A",
        f"{BASE}/r/", f"{BASE}/r/../x", f"{BASE}/r/A/b", f"{BASE}/r/A?b", f"{BASE}/r/A#b", f"{BASE}/r/A\n", f"{BASE}/x/A", "",
    ],
)  # fmt: skip
def test_addresses_that_lead_elsewhere_are_refused(address: str) -> None:
    assert not is_under(address, BASE, "/r/")
    with pytest.raises(UntrustedGateError, match="card address"):
        check_receipt(dataclasses.replace(RECEIPT, card=address), **RIGHT)
    with pytest.raises(UntrustedGateError, match="poll address"):
        check_receipt(dataclasses.replace(RECEIPT, poll=address), **RIGHT)


@pytest.mark.parametrize(
    ("url", "split"),
    [
        ("https://g/s/pay", ("https://g", "pay")), ("https://g/s/pay/", ("https://g", "pay")), ("g:7070/s/pay", ("http://g:7070", "pay")),
        ("https://g/a/s/pay", ("https://g/a", "pay")), ("https://g", ("https://g", None)), ("https://g/s/", ("https://g/s", None)),
        ("https://g/s/PAY", ("https://g/s/PAY", None)), ("https://g/s/a/b", ("https://g/s/a/b", None)),
    ],
)  # fmt: skip
def test_address_is_split_into_gate_and_workload(url: str, split: tuple[str, str | None]) -> None:
    assert split_gate_url(url) == split


def test_configuration_narrows_the_pinned_keys_and_never_widens_them() -> None:
    other = ReceiptKey()

    assert pinned_keys([KEY.public, other.public], gates=None) == [KEY.public, other.public]
    assert pinned_keys([KEY.public, other.public], gates=frozenset({other.thumbprint})) == [other.public]
    with pytest.raises(UntrustedGateError, match="does not name"):
        pinned_keys([KEY.public], gates=frozenset({other.thumbprint}))


def test_repr_holds_no_code() -> None:
    assert str(RECEIPT.code) not in repr(RECEIPT)


HOST = base64url.digest(b"a host's key")


@pytest.mark.parametrize("identity", [f"tpm web1 {HOST}", f"file web1 {HOST}", f"new {HOST}"])
def test_receipt_may_name_the_host_that_asked_and_no_other(identity: str) -> None:
    receipt = Receipt.parse(dataclasses.replace(RECEIPT, identity=identity).payload())
    check_receipt(receipt, **RIGHT, identity=HOST)

    for other in (None, base64url.digest(b"another's")):
        with pytest.raises(UntrustedGateError, match="another host"):
            check_receipt(receipt, **RIGHT, identity=other)


def test_older_gate_that_names_no_host_is_believed() -> None:
    check_receipt(RECEIPT, **RIGHT, identity=HOST)


@pytest.mark.parametrize("identity", ["", "none", f"tpm {HOST}", HOST, 1, [HOST]])
def test_receipt_with_an_identity_that_is_none_is_refused(identity: Any) -> None:
    with pytest.raises(ValueError, match=r"identity|type"):
        Receipt.parse(json.dumps(json.loads(RECEIPT.payload()) | {"identity": identity}).encode())
