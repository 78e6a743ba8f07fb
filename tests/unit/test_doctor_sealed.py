"""What is said of sealed files, of their servers, and of the hardware that they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from support.fake_tang import FakeTang
from support.secrets import secret

from unlatch.bootstrap import doctor, doctor_servers, jose, seal
from unlatch.bootstrap.advertisement import Advertisement
from unlatch.bootstrap.doctor import Server
from unlatch.bootstrap.http import HttpReply
from unlatch.bootstrap.pins.pkcs11_header import Pkcs11Pin
from unlatch.bootstrap.pins.tpm2_header import Tpm2Pin
from unlatch.bootstrap.pins.tree import BrokenPin, Child, NullPin, RecoveryPin, SssPin, TangPin, UnknownPin
from unlatch.bootstrap.seal import RecoveryTarget, SssTarget, TangTarget, Target
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import UnlatchError, UnreachableError
from unlatch.memguard._native import exchange_key_generate
from unlatch.memguard.custodian.uri import TokenUri
from unlatch.memguard.doctor.finding import Finding

NOW = 1_780_000_000.0
GATE = FakeTang(url="https://gate.example/s/pay")
OTHER = FakeTang(url="https://other.example/s/pay")
RULED = {"cty": "application/unlatch+json", "unlatch": {"secrets": {"tls": "private-key"}}}


def target(server: FakeTang, trust: str = "pinned") -> TangTarget:
    return TangTarget(server.url, tuple(server.keys), server.exchange_public, trust)


def recovery() -> RecoveryTarget:
    key = jose.read_json(exchange_key_generate("P-256")[1])
    assert isinstance(key, dict)
    return RecoveryTarget(key)


def sealed(to: Target, **labels: object) -> SealedFile:
    extra = RULED | {"unlatch": RULED["unlatch"] | labels}  # type: ignore[operator]
    return SealedFile.parse(seal.encrypt(secret(b"payload"), to, extra=extra))


def judged(one: SealedFile, gates: frozenset[str] | None = None) -> list[tuple[str, str]]:
    found = list(doctor.check(one, "pay.jwe", now=NOW, gates=gates))
    assert all(finding.next for finding in found if finding.level != "ok")
    assert {finding.where for finding in found} == {"pay.jwe"}
    return [(finding.level, finding.what) for finding in found]


def pin_of(one: SealedFile) -> TangPin:
    assert isinstance(one.pin, TangPin)
    return one.pin


def test_file_with_two_ways_in_is_well() -> None:
    one = sealed(SssTarget(1, (target(GATE), target(OTHER))))

    assert judged(one, frozenset({GATE.thumbprint, OTHER.thumbprint})) == [
        ("ok", "opens until 2 servers or keys are lost")
    ]


@pytest.mark.parametrize(
    "to", [target(GATE), SssTarget(2, (target(GATE), target(OTHER))), recovery()], ids=["one", "both", "key"]
)
def test_file_with_one_way_in_is_warned_of(to: Target) -> None:
    (first, *_) = judged(sealed(to))

    assert first[0] == "warning"
    assert "one way in" in first[1]


@pytest.mark.parametrize(
    ("labels", "level", "words"),
    [
        ({"unbound": ["psp"]}, "warning", "no sealed rules for psp"),
        ({"trust": {"https://gate.example/s/pay": "first-use"}}, "warning", "trusted on first use"),
        ({"created": "2099-01-01T00:00:00+00:00"}, "failure", "in the future"),
    ],
)
def test_label_that_says_something_weak_is_told(labels: dict[str, object], level: str, words: str) -> None:
    one = sealed(SssTarget(1, (target(GATE), target(OTHER))), **labels)
    (_, *found) = judged(one)

    assert [(found_level, words in what) for found_level, what in found] == [(level, True)]


@pytest.mark.parametrize("created", ["2026-01-01T00:00:00+00:00", "yesterday", 5, None])
def test_file_of_the_past_or_without_a_date_is_well(created: object) -> None:
    assert len(judged(sealed(SssTarget(1, (target(GATE), target(OTHER))), created=created))) == 1


def test_raw_file_has_no_rules() -> None:
    one = SealedFile.parse(seal.encrypt(secret(b"payload"), SssTarget(1, (target(GATE), target(OTHER)))))

    assert ("warning", True) in [(level, "without sealed rules" in what) for level, what in judged(one)]


def test_gate_that_the_configuration_does_not_name_is_a_failure() -> None:
    one = sealed(SssTarget(1, (target(GATE), target(OTHER))))
    found = judged(one, frozenset({GATE.thumbprint}))

    assert [level for level, _ in found] == ["ok", "failure"]
    assert "does not name" in found[1][1]
    assert [level for level, _ in judged(one, frozenset())] == ["ok"]


def tree_of(*pins: object, threshold: int = 1) -> SssPin:
    return SssPin(threshold, b"", tuple(Child(b"", b"", pin) for pin in pins))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pin", "count"),
    [
        (UnknownPin("x"), 1),
        (BrokenPin("x"), 0),
        (tree_of(UnknownPin("x"), BrokenPin("y")), 1),
        (tree_of(UnknownPin("x"), BrokenPin("y"), threshold=2), 0),
        (tree_of(UnknownPin("x"), UnknownPin("y"), UnknownPin("z"), threshold=2), 2),
        (tree_of(tree_of(UnknownPin("x"), UnknownPin("y")), UnknownPin("z")), 3),
    ],
)
def test_losses_are_counted_through_sharings(pin: SssPin, count: int) -> None:
    assert doctor.losses(pin) == count


@pytest.mark.parametrize(
    ("pin", "level", "words"),
    [
        (NullPin("key"), "failure", "null pin"),
        (UnknownPin("yubikey"), "warning", "'yubikey'"),
        (BrokenPin("iv has 3 bytes"), "warning", "iv has 3 bytes"),
        (RecoveryPin("kid"), "ok", "recovery key"),
    ],
)
def test_each_kind_of_leaf_is_judged(pin: object, level: str, words: str) -> None:
    one = sealed(target(GATE))
    changed = SealedFile(
        one.compact, one.header_json, one.header, tree_of(pin, UnknownPin("a"), UnknownPin("b"))
    )
    found = [finding for finding in doctor.check(changed, "pay.jwe", now=NOW) if words in finding.what]

    assert [finding.level for finding in found] == [level]


def test_pin_of_a_token_in_clear_is_a_failure() -> None:
    uri = TokenUri.parse("pkcs11:token=prod;object=k?pin-value=1234")
    one = sealed(target(GATE))
    changed = SealedFile(one.compact, one.header_json, one.header, Pkcs11Pin(uri, b"", "oaep"))
    found = list(doctor.check(changed, "pay.jwe", now=NOW))

    assert [one.what for one in found if one.level == "failure"] == [
        "the token's PIN stands in clear in the file"
    ]
    assert "1234" not in repr(found)


@dataclass
class Wire:
    """Answers every request with one reply."""

    reply: HttpReply | UnlatchError
    asked: str = ""

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, seconds: float | None
    ) -> HttpReply:
        self.asked = f"{method} {url}"
        if isinstance(self.reply, UnlatchError):
            raise self.reply
        return self.reply


def answered(server: FakeTang, **headers: str) -> HttpReply:
    return HttpReply(200, server.advertisement(), headers)


def findings(pin: TangPin, server: Server, now: float = NOW) -> list[Finding]:
    return list(doctor.check_server(pin, server, "pay.jwe", now=now))


def test_server_that_knows_the_key_is_well() -> None:
    wire = Wire(answered(GATE, date="Tue, 26 May 2026 20:26:40 GMT"))
    server = doctor_servers.ask(GATE.url, http=wire)
    found = findings(pin_of(sealed(target(GATE))), server, server.date or 0)

    assert wire.asked == f"GET {GATE.url}/adv"
    assert server.date == 1_779_827_200.0
    assert [one.level for one in found] == ["ok", "ok"]


def test_plain_address_of_a_tang_server_is_asked_over_http() -> None:
    wire = Wire(answered(GATE))
    doctor_servers.ask("tang.example", http=wire)

    assert wire.asked == "GET http://tang.example/adv"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (UnreachableError("no answer from https://gate.example", hint="is it up?"), "no answer"),
        (HttpReply(404, b""), "HTTP 404"),
        (HttpReply(302, b""), "HTTP 302"),
        (HttpReply(200, b"<html>"), "web page"),
        (HttpReply(200, b"{}"), "not a JWS"),
    ],
)
def test_server_that_gives_no_advertisement_is_a_failure(reply: HttpReply | UnlatchError, words: str) -> None:
    server = doctor_servers.ask(GATE.url, http=Wire(reply))
    (found,) = findings(pin_of(sealed(target(GATE))), server)

    assert (found.level, found.where) == ("failure", GATE.url)
    assert words in found.what
    assert found.next


def test_server_with_foreign_keys_is_an_alarm() -> None:
    server = Server(Advertisement.parse(OTHER.advertisement()))
    (found,) = findings(pin_of(sealed(target(GATE))), server)

    assert found.level == "failure"
    assert found.next is not None
    assert "do not approve" in found.next


def test_key_that_is_not_advertised_any_more_is_warned_of() -> None:
    pin = pin_of(sealed(target(GATE)))
    rotated = TangPin(
        pin.url, jose.thumbprint(OTHER.exchange_public), OTHER.exchange_public, pin.signing_keys
    )
    (found,) = findings(rotated, Server(Advertisement.parse(GATE.advertisement())))

    assert found.level == "warning"
    assert "not advertised any more" in found.what


@pytest.mark.parametrize(
    ("apart", "level", "words"),
    [
        (0, "ok", "agree"),
        (29, "ok", "agree"),
        (30, "warning", "30 s ahead"),
        (-45, "warning", "45 s behind"),
        (300, "failure", "300 s ahead"),
        (-4000, "failure", "4000 s behind"),
    ],
)
def test_clocks_may_differ_by_seconds(apart: float, level: str, words: str) -> None:
    found = doctor.clock(NOW, NOW + apart, "https://gate.example")

    assert found.level == level
    assert words in found.what


@pytest.mark.parametrize("date", ["", "soon", "Tue, 99 May 2026 20:26:40 GMT"])
def test_date_that_is_none_tells_no_time(date: str) -> None:
    assert doctor_servers.date_of(HttpReply(200, b"", {"date": date})) is None


@pytest.mark.parametrize(
    ("bank", "pcrs", "level"),
    [(None, (), "ok"), ("sha256", (7, 0), "ok"), ("sha256", (7, 23), "failure"), ("sha1", (7,), "failure")],
)
def test_tpm_must_keep_the_registers_that_a_file_needs(
    bank: str | None, pcrs: tuple[int, ...], level: str
) -> None:
    pin = Tpm2Pin("sha256", "ecc", b"", b"", bank, pcrs)

    assert doctor.check_tpm(pin, {"sha256": list(range(16)), "sha1": []}, "pay.jwe").level == level


@pytest.mark.parametrize(
    ("tokens", "levels"),
    [
        ([], ["failure"]),
        ([{"label": "prod", "warnings": []}], ["ok"]),
        ([{"label": "prod", "warnings": ["the PIN is locked"]}], ["warning", "ok"]),
        ([{"label": "a", "warnings": []}, {"label": "b", "warnings": []}], ["warning", "ok"]),
    ],
)
def test_one_token_must_fit(tokens: list[dict[str, object]], levels: list[str]) -> None:
    uri = TokenUri.parse("pkcs11:token=prod;object=k")

    assert [one.level for one in doctor.check_token(uri, tokens, "pay.jwe")] == levels
