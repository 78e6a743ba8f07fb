"""Guard's side of keys in hardware, against a custodian that does as it is told."""

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from support.custodian import (
    CUSTODIAN,
    KEYS,
    PIN,
    SIGN,
    Question,
    ScriptedCustodian,
    refusing,
    scheme_of,
    sign,
    silence,
)
from support.guard_client import (
    ECDSA_P256,
    ECDSA_P384,
    HEADER,
    ControlFault,
    GuardClient,
    RefusedByGuard,
    WorkerClient,
    base64url,
    bundle,
    certificate_verify,
    private_key_secret,
    running_guard,
    seal,
    server_key_exchange,
    spki,
    token_secret,
)

KEY = os.urandom(32)
SOFT = ec.generate_private_key(ec.SECP256R1())
HARD = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
SITE = "pkcs11:token=prod;object=site"
TOKEN = "pkcs11:token=prod"
FIRST = 0x8000
SECRET_PIN = "482913"
SET = b"s" * 32
GENERATION = int.from_bytes(SET[-2:], "big")
SCHEME, MALFORMED, CONTEXT, TOO_MANY = 4, 1, 5, 8
BUSY, UNREACHABLE, HARDWARE_REFUSED = 12, 13, 14


def pin_secret(value: str = SECRET_PIN, hardware: str = TOKEN) -> dict[str, Any]:
    return {"kind": "pin", "value": value, "use": {"hardware": hardware}}


def sealed(set_id: bytes = SET, **pin: str) -> bytes:
    soft = private_key_secret(SOFT, {"names": ["soft.example"]})
    return seal(bundle({"soft": soft, "pin": pin_secret(**pin)}, set_id), KEY)


def claim(name: str = SITE, key: ec.EllipticCurvePrivateKey = HARD, where: str = "w") -> dict[str, Any]:
    names = ["soft.example"] if name == "soft" else ["site.example"]
    return {"where": where, "key": name, "spki": base64url(spki(key)), "names": names}


def configuration(*certificates: dict[str, Any]) -> dict[str, Any]:
    return {"certificates": list(certificates or [claim()]), "inject": []}


def unreachable(answer: dict[str, Any]) -> list[str]:
    """Warnings of keys that are not there; each of them lacks sealed rules as well."""
    return [one for one in answer["warnings"] if "not reachable yet" in one]


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come"
        time.sleep(0.01)


def custodian_status(guard: GuardClient, number: int = 0) -> dict[str, Any]:
    (found,) = (one for one in guard.status()["custodians"] if one["id"] == number)
    assert isinstance(found, dict)
    return found


def verify(signature: bytes, message: bytes) -> None:
    HARD.public_key().verify(signature, message, ec.ECDSA(hashes.SHA256()))


def refused(edge: WorkerClient, key: int = FIRST, message: bytes | None = None) -> int:
    with pytest.raises(RefusedByGuard) as raised:
        edge.sign(key, ECDSA_P256, message or certificate_verify())
    return raised.value.code


def start_sign(edge: WorkerClient, key: int, request_id: int) -> bytes:
    """Ask without waiting; gives the message."""
    message = certificate_verify()
    payload = struct.pack(">H", ECDSA_P256) + message
    edge.socket.send(HEADER.pack(1, 0x01, key, request_id, len(payload)) + payload)
    return message


def receive(edge: WorkerClient) -> tuple[int, int, int, bytes]:
    """Operation, key, request id, payload."""
    data = edge.socket.recv(65536)
    _, operation, key, request_id, _ = HEADER.unpack_from(data)
    return operation, key, request_id, data[HEADER.size :]


@pytest.fixture
def guard() -> Iterator[GuardClient]:
    with running_guard() as guard:
        guard.load(sealed(), KEY)
        yield guard


@pytest.fixture
def hardware(guard: GuardClient) -> Iterator[ScriptedCustodian]:
    one = ScriptedCustodian({1: HARD}).start(guard, {1: SITE})
    yield one
    one.close()


@pytest.fixture
def edge(guard: GuardClient, hardware: ScriptedCustodian) -> Iterator[WorkerClient]:
    """Of a guard that has one key in hardware and one of its own in force."""
    guard.configure(configuration(claim(), claim("soft", SOFT)))
    worker = guard.edge()
    yield worker
    worker.socket.close()


def test_hardware_signs_what_guard_admits(
    guard: GuardClient, hardware: ScriptedCustodian, edge: WorkerClient
) -> None:
    for message in (certificate_verify(), certificate_verify(48), server_key_exchange()):
        verify(edge.sign(FIRST, ECDSA_P256, message), message)
        asked = hardware.next(SIGN)
        assert (asked.key, scheme_of(asked), asked.payload[2:]) == (1, ECDSA_P256, message)
    status = guard.status()

    assert status["signatures_total"] == 3
    assert status["custodians"][0]["state"] == "ready"
    assert status["custodians"][0]["keys"] == [
        {"name": SITE, "id": FIRST, "algorithm": "ecdsa-p256", "missing": None, "signatures": 3,
         "wrong": 0, "p50_ms": 0.5, "p99_ms": 2.5}
    ]  # fmt: skip
    assert status["trapped_calls"] == {}


def test_answer_to_configure_names_key_and_algorithm(guard: GuardClient, hardware: ScriptedCustodian) -> None:
    answer = guard.configure(configuration(claim(), claim(where="again"), claim("soft", SOFT)))

    found = {one["name"]: (one["id"], one["algorithm"]) for one in answer["keys"]}
    assert found == {"soft": (1, "ecdsa-p256"), SITE: (FIRST, "ecdsa-p256")}
    assert unreachable(answer) == []


@pytest.mark.parametrize(
    ("scheme", "message", "code"),
    [
        (ECDSA_P256, b"no handshake", CONTEXT),
        (ECDSA_P256, b"\x20" * 64 + b"TLS 1.3, client CertificateVerify\0" + b"h" * 32, CONTEXT),
        (ECDSA_P384, certificate_verify(), SCHEME),
        (0x0804, certificate_verify(), SCHEME),
    ],
)
def test_what_guard_refuses_never_reaches_the_custodian(
    hardware: ScriptedCustodian, edge: WorkerClient, scheme: int, message: bytes, code: int
) -> None:
    with pytest.raises(RefusedByGuard) as raised:
        edge.sign(FIRST, scheme, message)

    assert raised.value.code == code
    assert hardware.has_none(SIGN, seconds=0.2)


def test_rights_and_rate_hold_as_for_other_keys(
    guard: GuardClient, hardware: ScriptedCustodian, edge: WorkerClient
) -> None:
    soft_only, slow, egress = guard.edge(keys=[1]), guard.edge(keys=[FIRST], rate=2), guard.egress()
    for worker in (soft_only, slow, egress):
        worker.socket.settimeout(10)

    assert refused(soft_only) == 3
    assert refused(egress, message=certificate_verify()) == 2
    assert refused(slow, 1) == 3
    for _ in range(2):
        slow.sign(FIRST, ECDSA_P256, certificate_verify())
    assert refused(slow) == TOO_MANY
    assert refused(edge, FIRST + 1) == 2
    with pytest.raises(ControlFault) as raised:
        guard.edge(keys=[FIRST + 1])
    assert raised.value.kind == "key"
    for worker in (soft_only, slow, egress):
        worker.socket.close()


def test_slow_hardware_holds_up_nothing_else(hardware: ScriptedCustodian, edge: WorkerClient) -> None:
    hardware.scripts[SIGN] = silence
    message = start_sign(edge, FIRST, 7)
    asked = hardware.next(SIGN)
    soft = start_sign(edge, 1, 8)
    operation, _, request_id, signature = receive(edge)
    SOFT.public_key().verify(signature, soft, ec.ECDSA(hashes.SHA256()))
    assert (operation, request_id) == (0x81, 8)

    sign(hardware, asked)

    operation, key, request_id, signature = receive(edge)
    assert (operation, key, request_id) == (0x81, FIRST, 7)
    verify(signature, message)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (1, HARDWARE_REFUSED),
        (2, HARDWARE_REFUSED),
        (4, SCHEME),
        (5, HARDWARE_REFUSED),
        (8, BUSY),
        (9, HARDWARE_REFUSED),
        (10, UNREACHABLE),
        (11, UNREACHABLE),
        (12, UNREACHABLE),
        (13, UNREACHABLE),
        (14, UNREACHABLE),
        (99, HARDWARE_REFUSED),
    ],
)
def test_refusals_are_translated(
    guard: GuardClient, hardware: ScriptedCustodian, edge: WorkerClient, theirs: int, ours: int
) -> None:
    hardware.scripts[SIGN] = refusing(theirs)

    assert refused(edge) == ours
    assert sum(guard.status()["refusals"].values()) == 1


def test_question_without_answer_ends_in_time(hardware: ScriptedCustodian, edge: WorkerClient) -> None:
    hardware.scripts[SIGN] = silence
    started = time.monotonic()

    assert refused(edge) == UNREACHABLE

    assert 2.4 < time.monotonic() - started < 4
    late = hardware.next(SIGN)
    sign(hardware, late)  # nobody waits any more
    hardware.scripts.clear()
    edge.sign(FIRST, ECDSA_P256, certificate_verify())


def test_at_most_64_questions_are_open(hardware: ScriptedCustodian, edge: WorkerClient) -> None:
    hardware.scripts[SIGN] = silence
    for number in range(64):
        start_sign(edge, FIRST, number + 1)
    open_questions = [hardware.next(SIGN) for _ in range(64)]
    start_sign(edge, FIRST, 65)

    assert receive(edge) == (0xFF, FIRST, 65, bytes([BUSY]))

    for question in open_questions:
        sign(hardware, question)
    assert {receive(edge)[2] for _ in range(64)} == set(range(1, 65))


def test_dead_custodian_fails_open_questions_at_once(
    guard: GuardClient, hardware: ScriptedCustodian, edge: WorkerClient
) -> None:
    hardware.scripts[SIGN] = silence
    start_sign(edge, FIRST, 1)
    hardware.next(SIGN)
    started = time.monotonic()

    hardware.close()

    assert receive(edge) == (0xFF, FIRST, 1, bytes([UNREACHABLE]))
    assert time.monotonic() - started < 1
    assert refused(edge) == UNREACHABLE
    assert custodian_status(guard)["state"] == "lost"
    edge.sign(1, ECDSA_P256, certificate_verify())


def test_custodian_started_anew_takes_over(
    guard: GuardClient, hardware: ScriptedCustodian, edge: WorkerClient
) -> None:
    hardware.scripts[SIGN] = silence
    start_sign(edge, FIRST, 1)
    hardware.next(SIGN)
    again = ScriptedCustodian({5: HARD}).start(guard, {5: SITE})

    assert receive(edge) == (0xFF, FIRST, 1, bytes([UNREACHABLE]))
    assert hardware.is_closed()
    wait_for(lambda: custodian_status(guard)["keys"][0]["algorithm"] is not None)
    message = certificate_verify()
    verify(edge.sign(FIRST, ECDSA_P256, message), message)
    assert again.next(SIGN).key == 5
    again.close()


def test_certificate_of_another_key_is_refused(guard: GuardClient, hardware: ScriptedCustodian) -> None:
    with pytest.raises(ControlFault) as raised:
        guard.configure(configuration(claim(key=OTHER, where="listeners[0]")))

    assert (raised.value.kind, raised.value.where) == ("key", "listeners[0]")
    assert SITE in raised.value.message


@pytest.mark.parametrize(
    "certificates",
    [
        [claim("pkcs11:token=prod;object=nobody")],
        [claim() | {"spki": "AAAA"}],
        [claim() | {"spki": "?"}],
    ],
)
def test_certificate_without_a_key_is_refused(
    guard: GuardClient, hardware: ScriptedCustodian, certificates: list[dict[str, Any]]
) -> None:
    with pytest.raises(ControlFault) as raised:
        guard.configure(configuration(*certificates))

    assert raised.value.kind == "key"


def test_key_that_is_not_there_yet_is_a_warning_and_compared_when_it_comes(guard: GuardClient) -> None:
    one = ScriptedCustodian({1: OTHER}).start(guard, {1: SITE}, state="lost")
    answer = guard.configure(configuration())
    edge = guard.edge()
    edge.socket.settimeout(10)

    assert len(unreachable(answer)) == 1
    assert answer["keys"][0]["id"] == FIRST
    with pytest.raises(ControlFault):  # one key has one certificate, seen or not
        guard.configure(configuration(claim(), claim(key=OTHER)))
    assert refused(edge) == UNREACHABLE
    one.tell("ready")
    wait_for(lambda: custodian_status(guard)["keys"][0]["algorithm"] is not None)
    assert refused(edge) == HARDWARE_REFUSED  # another key stands there
    assert one.has_none(SIGN, seconds=0.2)
    one.keys[1] = HARD
    one.tell("ready")
    one.next(KEYS)
    wait_for(lambda: unreachable(guard.configure(configuration())) == [])
    edge.sign(FIRST, ECDSA_P256, certificate_verify())
    edge.socket.close()
    one.close()


def test_configure_waits_for_hardware_that_starts(guard: GuardClient) -> None:
    one = ScriptedCustodian({1: HARD}).start(guard, {1: SITE}, state=None)
    started = time.monotonic()
    slow = guard.configure(configuration())
    assert 4.5 < time.monotonic() - started < 8
    assert len(unreachable(slow)) == 1
    one.close()


def test_keys_are_asked_again_at_every_configure(guard: GuardClient, hardware: ScriptedCustodian) -> None:
    guard.configure(configuration())
    while not hardware.asked.empty():
        hardware.asked.get()
    hardware.keys[1] = OTHER

    with pytest.raises(ControlFault):
        guard.configure(configuration())
    guard.configure(configuration(claim(key=OTHER)))


def test_no_question_follows_the_event_that_answers_it(
    guard: GuardClient, hardware: ScriptedCustodian
) -> None:
    """A custodian says "ready" again whenever it looked its keys up."""

    def answer(one: ScriptedCustodian, asked: Question) -> None:
        one.tell("ready")
        one.reply(asked, json.dumps(one.describe()).encode())

    hardware.next(KEYS)
    hardware.scripts[KEYS] = answer
    hardware.tell("ready")
    hardware.next(KEYS)

    assert hardware.has_none(KEYS, seconds=0.7)


def test_lost_hardware_refuses_until_its_keys_were_compared(
    guard: GuardClient, hardware: ScriptedCustodian, edge: WorkerClient
) -> None:
    hardware.tell("lost", "token\nis gone" + "!" * 1000)
    wait_for(lambda: custodian_status(guard)["state"] == "lost")
    assert refused(edge) == UNREACHABLE
    reason = custodian_status(guard)["reason"]
    assert reason.startswith("token is gone!")
    assert len(reason) == 200

    hardware.tell("ready")
    wait_for(lambda: custodian_status(guard)["keys"][0]["algorithm"] is not None)
    edge.sign(FIRST, ECDSA_P256, certificate_verify())


def test_pin_goes_to_the_hardware_it_was_sealed_for(guard: GuardClient) -> None:
    one = ScriptedCustodian({1: HARD}).start(guard, {1: SITE}, pin="pin", state="need-pin")
    asked = one.next(PIN)

    assert (asked.key, asked.payload) == (GENERATION, SECRET_PIN.encode())
    wait_for(lambda: custodian_status(guard)["state"] == "ready")
    one.tell("lost")
    one.tell("need-pin")
    assert one.next(PIN).payload == SECRET_PIN.encode()
    one.close()


def test_pin_comes_after_the_load() -> None:
    with running_guard() as guard:
        one = ScriptedCustodian({1: HARD}).start(guard, {1: SITE}, pin="pin", state="need-pin")
        assert one.has_none(PIN, seconds=0.5)

        guard.load(sealed(), KEY)

        assert one.next(PIN).payload == SECRET_PIN.encode()
        one.close()


@pytest.mark.parametrize(
    ("name", "hardware", "reason"),
    [
        ("pin", "pkcs11:token=other", "sealed for other hardware"),
        ("soft", TOKEN, "no PIN named"),
        ("none", TOKEN, "no PIN named"),
        (None, TOKEN, "no PIN is sealed"),
    ],
)
def test_nobody_else_gets_a_pin(guard: GuardClient, name: str | None, hardware: str, reason: str) -> None:
    one = ScriptedCustodian({1: HARD}).start(guard, {1: SITE}, hardware=hardware, pin=name, state="need-pin")

    wait_for(lambda: reason in custodian_status(guard)["reason"])

    assert one.has_none(PIN, seconds=0.6)
    one.close()


def test_pin_is_no_token_and_no_key(guard: GuardClient, hardware: ScriptedCustodian) -> None:
    rule = {
        "id": 1, "where": "r", "secret": "pin", "upstream": "https://a.example:443", "ca": None, "methods": None,
        "paths": None, "place": {"header": "Authorization", "scheme": "bearer"}, "callers": ["anyone"],
    }  # fmt: skip
    for wrong in (
        {"certificates": [], "inject": [rule], "unbound": True},
        {"certificates": [claim("pin")], "inject": []},
        {"certificates": [], "inject": [], "tickets": {"where": "t", "secret": "pin"}},
    ):
        with pytest.raises(ControlFault) as raised:
            guard.configure(wrong)
        assert raised.value.kind == "key"
    with pytest.raises(ControlFault):
        guard.csr("pin")
    (described,) = (one for one in guard.load(sealed(), KEY)["secrets"] if one["name"] == "pin")
    assert described == {"name": "pin", "kind": "pin", "algorithm": None, "use": {"hardware": TOKEN}}


@pytest.mark.parametrize("code", [13, 14])
def test_refused_pin_is_never_sent_again(guard: GuardClient, code: int) -> None:
    one = ScriptedCustodian({1: HARD}, {PIN: refusing(code)}).start(
        guard, {1: SITE}, pin="pin", state="need-pin"
    )
    one.next(PIN)
    one.tell("need-pin")
    assert one.has_none(PIN, seconds=0.8)
    again = ScriptedCustodian({1: HARD}).start(guard, {1: SITE}, pin="pin", state="need-pin")

    wait_for(lambda: custodian_status(guard)["state"] == "pin-wrong")

    assert again.has_none(PIN, seconds=0.8)
    guard.drop()
    guard.load(sealed(b"t" * 32, value="another"), KEY)
    third = ScriptedCustodian({1: HARD}).start(guard, {1: SITE}, pin="pin", state="need-pin")
    assert third.next(PIN).payload == b"another"
    for custodian in (one, again, third):
        custodian.close()


def test_pin_whose_fate_is_unknown_is_sent_twice_at_most(guard: GuardClient) -> None:
    """The token may have counted a wrong one before its custodian died."""
    for _ in range(2):
        one = ScriptedCustodian({1: HARD}, {PIN: silence}).start(
            guard, {1: SITE}, pin="pin", state="need-pin"
        )
        one.next(PIN)
        one.close()
    one = ScriptedCustodian({1: HARD}).start(guard, {1: SITE}, pin="pin", state="need-pin")

    wait_for(lambda: "not answered" in custodian_status(guard)["reason"])

    assert one.has_none(PIN, seconds=0.6)
    one.close()


def test_drop_closes_custodians_and_numbers_stay(
    guard: GuardClient, hardware: ScriptedCustodian, edge: WorkerClient
) -> None:
    guard.drop()
    assert hardware.is_closed()
    guard.load(sealed(), KEY)
    names = {1: "file:other.key", 2: SITE}
    one = ScriptedCustodian({2: HARD}).start(guard, names)

    answer = guard.configure(configuration())

    assert answer["keys"][0]["id"] == FIRST
    assert [key["id"] for key in custodian_status(guard)["keys"]] == [FIRST + 1, FIRST]
    one.close()


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"short",
        HEADER.pack(2, 0x33, 0, 0, 0),
        HEADER.pack(1, 0x33, 0, 0, 0),
        HEADER.pack(1, 0x33, 0, 0, 18) + b'{"state": "mighty"}'[:18],
        HEADER.pack(1, 0x33, 1, 0, 18) + b'{"state": "ready"}',
        HEADER.pack(1, 0x33, 0, 9, 18) + b'{"state": "ready"}',
        b"x" * 20000,
    ],
)
def test_what_is_no_message_ends_the_socket(
    guard: GuardClient, hardware: ScriptedCustodian, edge: WorkerClient, datagram: bytes
) -> None:
    hardware.connection.send(datagram)

    assert hardware.is_closed()
    assert custodian_status(guard)["state"] in ("broken", "lost")
    assert refused(edge) == UNREACHABLE
    edge.sign(1, ECDSA_P256, certificate_verify())


@pytest.mark.parametrize(
    "answer",
    [
        lambda one, asked: one.reply(asked, b""),
        lambda one, asked: one.reply(asked, b"x" * 4000),
        lambda one, asked: one.send(0x81, asked.key + 1, asked.request_id, b"signature"),
        lambda one, asked: one.send(0xB0, asked.key, asked.request_id, b"{}"),
        lambda one, asked: one.send(0x01, asked.key, asked.request_id, b"signature"),
        lambda one, asked: one.send(0xFF, asked.key, asked.request_id, b""),
        lambda one, asked: one.send(0xFF, asked.key, asked.request_id, b"\x08\x08"),
    ],
)
def test_answer_that_is_none_ends_the_socket(
    hardware: ScriptedCustodian, edge: WorkerClient, answer: Callable[[ScriptedCustodian, Question], None]
) -> None:
    hardware.scripts[SIGN] = answer

    assert refused(edge) == UNREACHABLE
    assert hardware.is_closed()


@pytest.mark.parametrize(
    "told", [b"[]", b"{", b'{"found": [{"id": 1, "spki": "zz"}]}', b'{"found": [{"id": 1}]}']
)
def test_description_that_is_none_ends_the_socket(guard: GuardClient, told: bytes) -> None:
    one = ScriptedCustodian({1: HARD}, {KEYS: lambda one, asked: one.reply(asked, told)})
    one.start(guard, {1: SITE})

    assert one.is_closed()
    assert custodian_status(guard)["state"] == "broken"
    one.close()


def test_keys_that_are_refused_are_asked_again(guard: GuardClient) -> None:
    one = ScriptedCustodian({1: HARD}, {KEYS: refusing(11)}).start(guard, {1: SITE})
    one.next(KEYS)
    del one.scripts[KEYS]

    answer = guard.configure(configuration())

    assert unreachable(answer) == []
    one.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 16},
        {"id": -1},
        {"hardware": ""},
        {"hardware": "a\nb"},
        {"keys": [{"id": 1, "name": "site"}]},
        {"keys": [{"id": 1, "name": SITE}, {"id": 1, "name": "file:b"}]},
        {"keys": [{"id": 1, "name": SITE}, {"id": 2, "name": SITE}]},
        {"keys": [{"id": n, "name": f"file:{n}"} for n in range(257)]},
        {"more": 1},
    ],
)
def test_registration_that_is_wrong_is_refused(guard: GuardClient, wrong: dict[str, Any]) -> None:
    content = {"id": 0, "hardware": TOKEN, "keys": [{"id": 1, "name": SITE}], "pin": None} | wrong
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, pytest.raises(ControlFault) as raised:
        guard.ask(CUSTODIAN, content, [theirs.fileno()])

    assert raised.value.kind == "malformed"
    assert guard.status()["custodians"] == []


def test_registration_needs_one_socket(guard: GuardClient) -> None:
    content = {"id": 0, "hardware": TOKEN, "keys": [], "pin": None}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        for descriptors in ([], [theirs.fileno()], [ours.fileno(), theirs.fileno()]):
            with pytest.raises(ControlFault) as raised:
                guard.ask(CUSTODIAN, content, descriptors)
            assert raised.value.kind == "malformed"


def test_two_custodians_cannot_have_one_name(guard: GuardClient, hardware: ScriptedCustodian) -> None:
    with pytest.raises(ControlFault):
        ScriptedCustodian({1: OTHER}).start(guard, {1: SITE}, number=1)


def test_hardware_keys_are_for_listeners_only(guard: GuardClient, hardware: ScriptedCustodian) -> None:
    with pytest.raises(ControlFault) as raised:
        guard.configure(configuration() | {"clients": [claim()]})
    assert raised.value.kind == "rules"
    with pytest.raises(ControlFault) as raised:
        guard.csr(SITE)
    assert raised.value.kind == "key"


def test_several_custodians_do_not_wait_for_each_other(guard: GuardClient) -> None:
    slow = ScriptedCustodian({1: HARD}, {SIGN: silence}).start(guard, {1: SITE})
    fast = ScriptedCustodian({1: OTHER}).start(guard, {1: "file:b.key"}, number=15, hardware="tpm")
    guard.configure(configuration(claim(), claim("file:b.key", OTHER)))
    edge = guard.edge()
    start_sign(edge, FIRST, 1)
    slow.next(SIGN)

    for number in range(50):
        start_sign(edge, FIRST + 1, 100 + number)
        assert receive(edge)[:3] == (0x81, FIRST + 1, 100 + number)

    with contextlib.closing(edge.socket):
        slow.close()
        assert receive(edge)[:3] == (0xFF, FIRST, 1)
    fast.close()


@pytest.mark.parametrize(
    "secret",
    [
        {"kind": "pin", "value": "1"},
        pin_secret(""),
        pin_secret("a\nb"),
        pin_secret("1" * 256),
        pin_secret(hardware=""),
        pin_secret() | {"use": {"hardware": TOKEN, "more": 1}},
    ],
)
def test_pin_that_cannot_be_right_is_not_loaded(secret: dict[str, Any]) -> None:
    with running_guard() as guard, pytest.raises(ControlFault) as raised:
        guard.load(seal(bundle({"pin": secret, "t": token_secret("t")}), KEY), KEY)

    assert raised.value.kind == "payload"
