"""What servers answered clevis 19, rebuilt case by case with keys of our own: the same exit code, and the same words.

The recording names cases and outcomes; the bodies are made here from the names.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.clevis_in_process import clevis
from support.fake_tang import FakeTang
from support.scripted_http import Answer, Asked, ScriptedServer
from support.secrets import secret
from support.vectors import load

from unlatch.bootstrap import jose, seal
from unlatch.memguard._native import exchange_answer, exchange_key_generate

RECORDED = {
    (case["group"], case["case"]): case for case in load("malformed_server_answers_seen_by_clevis")["cases"]
}
TANG, TWO = FakeTang(), FakeTang(signers=2)
GOOD = TANG.advertisement()


def keys(*change: Callable[[list[dict[str, Any]]], object], tang: FakeTang = TANG) -> bytes:
    """A rightly signed advertisement with another key set."""
    found: list[dict[str, Any]] = [dict(key) for key in tang.keys]
    for one in change:
        one(found)
    return tang.sign(jose.write_json({"keys": found}))


def jws(change: Callable[[dict[str, Any]], object], tang: FakeTang = TANG) -> bytes:
    """An advertisement with another JWS around it."""
    value: Any = jose.read_json(tang.advertisement())
    change(value)
    return jose.write_json(value)


def exchange_on(curve: str) -> dict[str, Any]:
    public: Any = jose.read_json(exchange_key_generate(curve)[1])
    return dict(public)


def unsigned_second(value: dict[str, Any]) -> None:
    value["signatures"].pop()


ADVERTISEMENTS: dict[str, Answer] = {
    "good adv, -y": Answer(GOOD),
    "good adv, Content-Type text/html": Answer(GOOD, headers={"Content-Type": "text/html"}),
    "signature corrupted": Answer(jws(lambda v: v.update(signature=jose.encode(b"\0" * 64)))),
    "two sign keys, signed by one only": Answer(jws(unsigned_second, TWO)),
    "two sign keys (ES512+ES256), signed by both": Answer(TWO.advertisement()),
    "no deriveKey key": Answer(keys(lambda k: k.pop())),
    "exchange key P-256": Answer(keys(lambda k: k.__setitem__(1, exchange_on("P-256")))),
    "exchange key P-384": Answer(keys(lambda k: k.__setitem__(1, exchange_on("P-384")))),
    "two exchange keys (first is P-256)": Answer(keys(lambda k: k.insert(0, exchange_on("P-256")))),
    "exchange key off-curve": Answer(keys(lambda k: k[1].update(x=k[1]["y"]))),
    "cty missing": Answer(GOOD),
    "payload not JSON": Answer(TANG.sign(b"hello")),
    "payload {} ": Answer(TANG.sign(b"{}")),
    "payload is array of keys": Answer(TANG.sign(jose.write_json(TANG.keys))),
    "body {} ": Answer(b"{}"),
    "body []": Answer(b"[]"),
    "body empty": Answer(b""),
    "body not JSON": Answer(b"hello"),
    "404": Answer(status=404),
    "500": Answer(status=500),
    "201 with good body": Answer(GOOD, 201),
    "204": Answer(b"", 204),
    "compact JWS advertisement": Answer(b"a.b.c"),
    "alg none signature": Answer(
        jws(lambda v: v.update(protected=jose.encode(b'{"alg":"none"}'), signature=""))
    ),
}
STRICTER_ADVERTISEMENTS: dict[str, Answer] = {
    "301 to /adv/ok": Answer(GOOD, 301, {"Location": "/adv/ok"}),
    "private d left in the advertised exchange key": Answer(keys(lambda k: k[1].update(d="AAAA"))),
    "exchange key alg ECDH": Answer(keys(lambda k: k[1].update(alg="ECDH"))),
}
QUIET = {"exchange key off-curve"}
"""clevis says "Wrapping failed!"; ours names the point."""


def edited(**members: Any) -> Callable[[dict[str, Any]], Answer]:
    """The right answer with members set, or dropped with None."""

    def edit(answer: dict[str, Any]) -> Answer:
        kept = {name: value for name, value in (answer | members).items() if value is not None}
        return Answer(jose.write_json(kept))

    return edit


def fixed(body: bytes = b"", status: int = 200, **headers: str) -> Callable[[dict[str, Any]], Answer]:
    return lambda _: Answer(body, status, headers)


def good(status: int = 200, **headers: str) -> Callable[[dict[str, Any]], Answer]:
    return lambda answer: Answer(jose.write_json(answer), status, headers)


ANSWERS: dict[str, Callable[[dict[str, Any]], Answer]] = {
    "good": good(),
    "good but Content-Type text/plain": good(**{"Content-Type": "text/plain"}),
    "alg missing": edited(alg=None),
    "key_ops missing": edited(key_ops=None),
    "alg and key_ops missing": edited(alg=None, key_ops=None),
    "alg ECDH": edited(alg="ECDH"),
    "key_ops [deriveBits]": edited(key_ops=["deriveBits"]),
    "extra members": edited(tang_pub="x"),
    "201 status": good(201),
    "202 status with good body": good(202),
    "202 status with empty body": fixed(status=202),
    "204": fixed(status=204),
    "200 empty": fixed(),
    "200 not JSON": fixed(b"hello"),
    "200 {}": fixed(b"{}"),
    "301 redirect to good server": fixed(status=301, Location="/rec/ok"),
    "307 redirect to good server": fixed(status=307, Location="/rec/ok"),
    **{str(status): fixed(status=status) for status in (400, 401, 403, 404, 409, 423, 425, 429, 500, 503)},
    "kty RSA": edited(kty="RSA"),
    "crv P-256 label": edited(crv="P-256"),
    "a valid P-256 point": lambda _: Answer(jose.write_json(exchange_on("P-256"))),
    "off-curve point": lambda answer: edited(x=answer["y"])(answer),
    "wrong but valid point": lambda _: Answer(jose.write_json(exchange_on("P-521"))),
    "response with d (private)": edited(d="AAAA"),
    "unsorted/pretty JSON": lambda answer: Answer(json.dumps(answer, indent=2).encode()),
}
STRICTER_ANSWERS: dict[str, Callable[[dict[str, Any]], Answer]] = {
    "answer followed by newline and garbage": lambda answer: Answer(jose.write_json(answer) + b"\ngarbage"),
    "x stripped of leading zeros / with extra zero byte": lambda answer: edited(x="AA" + answer["x"])(answer),
}


@pytest.mark.parametrize("case", [*ADVERTISEMENTS, *STRICTER_ADVERTISEMENTS])
def test_sealing_ends_as_in_clevis_or_as_documented(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = RECORDED["encrypt", case]
    answer = (ADVERTISEMENTS | STRICTER_ADVERTISEMENTS)[case]
    with ScriptedServer(lambda _: answer) as server:
        config = json.dumps({"url": server.url})
        found = clevis(["clevis", "encrypt", "tang", config, "-y"], "x", tmp_path, capfd, monkeypatch)

    assert found.code == (1 if case in STRICTER_ADVERTISEMENTS else recorded["exit_code"])
    assert bool(found.out) is (found.code == 0)
    if recorded["exit_code"] and case not in QUIET:
        wanted = recorded["stderr"].splitlines()[-1].replace("http://127.0.0.1:19099", server.url)
        assert found.err.splitlines()[0] == wanted


@pytest.mark.parametrize("case", [*ANSWERS, *STRICTER_ANSWERS])
def test_opening_ends_as_in_clevis_or_as_documented(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = RECORDED["decrypt", case]

    def answer(asked: Asked) -> Answer:
        right: Any = jose.read_json(exchange_answer(TANG.exchange, asked.body))
        return (ANSWERS | STRICTER_ANSWERS)[case](dict(right))

    with ScriptedServer(answer) as server:
        target = seal.TangTarget(server.url, tuple(TANG.keys), TANG.exchange_public, "pinned")
        jwe = seal.encrypt(secret(b"PLAINTEXT"), target).decode()
        found = clevis(["clevis", "decrypt"], jwe, tmp_path, capfd, monkeypatch)

    assert found.code == (1 if case in STRICTER_ANSWERS else recorded["exit_code"])
    assert found.out == (b"PLAINTEXT" if found.code == 0 else b"")
    assert len(server.asked) == 1
    if recorded["stderr"].startswith("Error communicating"):
        assert found.err.splitlines()[0] == f"Error communicating with server {server.url}"
