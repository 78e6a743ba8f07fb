"""Sealed files: what is read, what is refused, and how the refusal speaks."""

from collections.abc import Callable
from typing import Any

import pytest
from support.fake_tang import FakeTang
from support.secrets import secret

from unlatch.bootstrap import jose, seal
from unlatch.bootstrap.pins import tree
from unlatch.bootstrap.sealed import MAX_BYTES, SealedFile
from unlatch.errors import DamagedFileError


@pytest.fixture(scope="module")
def tang() -> FakeTang:
    return FakeTang(url="https://gate.test/s/pay")


@pytest.fixture(scope="module")
def jwe(tang: FakeTang) -> bytes:
    return seal.encrypt(secret(b"hello"), target(tang), extra={"unlatch": {"workload": "payments"}})


def target(tang: FakeTang) -> seal.TangTarget:
    return seal.TangTarget(tang.url, tuple(tang.keys), tang.exchange_public, "pinned")


def with_header(jwe: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with an edited header; nothing else is touched."""
    protected, rest = jwe.split(b".", 1)
    header: Any = jose.read_json(jose.decode(protected.decode()))
    change(header)
    return jose.encode(jose.write_json(header)).encode() + b"." + rest


def test_sealed_file_knows_whom_it_asks(jwe: bytes, tang: FakeTang) -> None:
    sealed = SealedFile.parse(jwe)

    assert isinstance(sealed.pin, tree.TangPin)
    assert (sealed.pin.url, sealed.pin.workload, sealed.pin.thumbprints) == (
        tang.url,
        "pay",
        (tang.thumbprint,),
    )
    assert sealed.workload == "payments"


def test_white_space_around_changes_nothing(jwe: bytes) -> None:
    assert SealedFile.parse(b"\n " + jwe + b"\r\n") == SealedFile.parse(jwe)
    assert SealedFile.parse(b"\n" + jwe).digest == SealedFile.parse(jwe).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(zip="DEF"), "header has zip"),
        (lambda h: h.update(crit=["exp"]), "header has crit"),
        (lambda h: h.update(alg="RSA-OAEP"), "header's alg"),
        (lambda h: h.update(enc="A256CBC-HS512"), "header's enc"),
        (lambda h: h.pop("clevis"), "no clevis object"),
        (lambda h: h["clevis"].pop("pin"), "no clevis.pin"),
        (lambda h: h["clevis"].update(pin=["tang"]), "no clevis.pin"),
        (lambda h: h["clevis"].pop("tang"), "no tang object"),
        (lambda h: h["clevis"]["tang"].pop("url"), "no clevis.tang.url"),
        (lambda h: h["clevis"]["tang"].pop("adv"), "no clevis.tang.adv"),
        (lambda h: h["clevis"]["tang"].update(adv={"keys": "x"}), "no key set"),
        (lambda h: h.pop("epk"), "no epk"),
        (lambda h: h.pop("kid"), "no kid"),
        (lambda h: h.update(kid="A" * 43), "not the thumbprint"),
    ],
)
def test_edited_header_is_named(jwe: bytes, change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(DamagedFileError, match=message) as caught:
        SealedFile.parse(with_header(jwe, change))

    assert caught.value.hint
    assert caught.value.exit_code == 18


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "1 fields"),
        (b"a.b.c", "3 fields"),
        (b"a.b.c.d.e.f", "6 fields"),
        (b"\xff", "outside ASCII"),
        (b"e30=..AAAA.AAAA.AAAA", "not .*base64url"),
        (b"e30..AAAA.AAAA.AAAA", "iv has 3 bytes"),
        (b"A" * (MAX_BYTES + 1), "more than"),
    ],
)
def test_what_is_no_compact_jwe_is_named(data: bytes, message: str) -> None:
    with pytest.raises(DamagedFileError, match=message):
        SealedFile.parse(data)


def test_repeated_header_member_is_refused(jwe: bytes) -> None:
    protected, rest = jwe.split(b".", 1)
    header = jose.decode(protected.decode())
    doubled = header[:-1] + b',"alg":"dir"}'

    with pytest.raises(DamagedFileError, match="twice"):
        SealedFile.parse(jose.encode(doubled).encode() + b"." + rest)


def test_unknown_pin_is_kept_for_inspection(jwe: bytes) -> None:
    sealed = SealedFile.parse(with_header(jwe, lambda h: h["clevis"].update(pin="yubikey")))

    assert sealed.pin == tree.UnknownPin("yubikey")


def test_advertised_private_part_does_not_reach_the_parsed_pin(jwe: bytes) -> None:
    def leak(header: dict[str, Any]) -> None:
        for key in header["clevis"]["tang"]["adv"]["keys"]:
            key["d"] = "AAAA"

    pin = SealedFile.parse(with_header(jwe, leak)).pin

    assert isinstance(pin, tree.TangPin)
    assert not any(jose.is_private(key) for key in (pin.exchange_key, *pin.signing_keys))


def test_sharings_inside_each_other_are_bounded(tang: FakeTang) -> None:
    nested: seal.Target = target(tang)
    for _ in range(9):
        nested = seal.SssTarget(1, (nested,))
    sealed = SealedFile.parse(seal.encrypt(secret(b"x"), nested))

    assert any(isinstance(leaf, tree.BrokenPin) for leaf in tree.leaves(sealed.pin))


@pytest.mark.parametrize(
    ("url", "workload"),
    [
        ("https://gate.test/s/pay", "pay"),
        ("https://gate.test/prefix/s/pay/", "pay"),
        ("http://tang.test", None),
        ("http://tang.test/s", None),
        ("tang.test/x/s/", None),
    ],
)
def test_workload_is_read_from_a_gates_address(url: str, workload: str | None) -> None:
    assert tree.TangPin(url, "", {}, ()).workload == workload
