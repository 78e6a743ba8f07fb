"""Debian's clevis 19 and tangd 11, both ways."""

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest
from support.fake_tang import FakeTang
from support.secrets import revealed, secret
from support.tangd import Tangd

from unlatch.bootstrap import jose, seal
from unlatch.bootstrap.advertisement import Advertisement
from unlatch.bootstrap.open import recover_content_key
from unlatch.bootstrap.pins.http import PlainTransport
from unlatch.bootstrap.policy import Rule, TangRule, parse_policy
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import UnknownKeyError, UnreachableError, UntrustedGateError
from unlatch.memguard._native import exchange_answer, exchange_key_generate, jwe_open

pytestmark = pytest.mark.interop

PLAINTEXTS = [b"", b"hi", bytes(range(256)), "π ünïcode\n".encode(), b"x" * 70_000]


@pytest.fixture(scope="module")
def tangd() -> Iterator[Tangd]:
    with Tangd() as server:
        yield server


@pytest.fixture(scope="module")
def other() -> Iterator[Tangd]:
    with Tangd() as server:
        yield server


def clevis(*arguments: str, data: bytes) -> bytes:
    done = subprocess.run(["clevis", *arguments], input=data, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def first_use(url: str, advertisement: Advertisement) -> str:
    return "first-use"


def our_seal(rule: Rule, plaintext: bytes) -> bytes:
    target = seal.resolve(rule, advertiser=PlainTransport(), accept=first_use)
    return seal.encrypt(
        secret(plaintext), target, extra={"unlatch": {"workload": "pay"}, "cty": "text/plain"}
    )


def our_open(jwe: bytes) -> bytes:
    sealed = SealedFile.parse(jwe)
    return revealed(jwe_open(sealed.compact, recover_content_key(sealed, transport=PlainTransport())))


def tree_config(a: Tangd, b: Tangd, down: str) -> str:
    inner = {
        "t": 1,
        "pins": {"tang": [{"url": down, "adv": advertisement(a)}, {"url": b.url, "thp": b.thumbprint}]},
    }
    return json.dumps({"t": 2, "pins": {"tang": [{"url": a.url, "thp": a.thumbprint}], "sss": [inner]}})


def advertisement(server: Tangd) -> object:
    return jose.read_json(PlainTransport().advertisement(server.url))


@pytest.mark.parametrize("plaintext", PLAINTEXTS, ids=len)
def test_clevis_opens_what_we_seal(tangd: Tangd, plaintext: bytes) -> None:
    assert clevis("decrypt", data=our_seal(TangRule(tangd.url, tangd.thumbprint), plaintext)) == plaintext


@pytest.mark.parametrize("plaintext", PLAINTEXTS, ids=len)
def test_we_open_what_clevis_seals(tangd: Tangd, plaintext: bytes) -> None:
    jwe = clevis("encrypt", "tang", json.dumps({"url": tangd.url, "thp": tangd.thumbprint}), data=plaintext)

    assert our_open(jwe) == plaintext


def test_our_header_is_clevis_header_but_for_ephemeral(tangd: Tangd) -> None:
    config = json.dumps({"url": tangd.url, "thp": tangd.thumbprint, "adv": advertisement(tangd)})
    theirs = dict(SealedFile.parse(clevis("encrypt", "tang", config, data=b"x")).header)
    target = seal.resolve(parse_policy("tang", config), advertiser=PlainTransport(), accept=first_use)
    ours = dict(SealedFile.parse(seal.encrypt(secret(b"x"), target)).header)

    assert theirs.pop("epk") != ours.pop("epk")
    assert ours == theirs


def test_sharings_open_both_ways_with_one_server_down(tangd: Tangd, other: Tangd) -> None:
    config = tree_config(tangd, other, "http://127.0.0.1:9")

    ours = our_seal(parse_policy("sss", config), b"nested")
    theirs = clevis("encrypt", "sss", config, data=b"nested")

    assert clevis("decrypt", data=ours) == b"nested"
    assert our_open(theirs) == b"nested"


def test_clevis_opens_a_file_that_has_a_recovery_branch(tangd: Tangd) -> None:
    private, public = exchange_key_generate("P-521")
    target = seal.resolve(
        TangRule(tangd.url, tangd.thumbprint), advertiser=PlainTransport(), accept=first_use
    )
    jwe = seal.encrypt(secret(b"both"), seal.with_recovery(target, seal.read_recovery_key(public)))
    sealed = SealedFile.parse(jwe)

    by_hand = recover_content_key(sealed, transport=FakeTang(), recovery_key=private)

    # The branch that clevis cannot open fails at once and must never race the one that it can.
    assert [clevis("decrypt", data=jwe) for _ in range(5)] == [b"both"] * 5
    assert revealed(jwe_open(sealed.compact, by_hand)) == b"both"


def test_file_sealed_before_a_rotation_opens_after_it() -> None:
    with Tangd() as server:
        ours = our_seal(TangRule(server.url, server.thumbprint), b"old")
        theirs = clevis(
            "encrypt", "tang", json.dumps({"url": server.url, "thp": server.thumbprint}), data=b"old"
        )
        server.rotate()

        assert our_open(theirs) == our_open(ours) == b"old"


def test_old_pin_is_refused_after_a_rotation_as_clevis_refuses_it() -> None:
    with Tangd() as server:
        pinned = server.thumbprint
        server.rotate()

        with pytest.raises(UntrustedGateError, match="not signed by the pinned key"):
            our_seal(TangRule(server.url, pinned), b"x")


def test_two_signing_keys_are_both_checked() -> None:
    with Tangd() as server:
        extra = server.directory / "second.jwk"
        subprocess.run(["jose", "jwk", "gen", "-i", '{"alg":"ES256"}', "-o", extra], check=True)
        found = Advertisement.parse(PlainTransport().advertisement(server.url))

        assert len(found.signing_keys) == 2


def test_key_that_was_removed_is_unknown() -> None:
    with Tangd() as server:
        jwe = our_seal(TangRule(server.url), b"x")
        for file in server.directory.glob("*.jwk"):
            file.unlink()
        server.rotate()

        with pytest.raises(UnknownKeyError):
            our_open(jwe)


def test_stopped_server_is_unreachable() -> None:
    with Tangd() as server:
        jwe = our_seal(TangRule(server.url), b"x")

    with pytest.raises(UnreachableError):
        our_open(jwe)


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
def test_answers_of_fake_and_real_server_are_the_same_bytes(curve: str) -> None:
    with Tangd() as server:
        private, public = exchange_key_generate(curve)
        key = jose.read_json(public)
        assert isinstance(key, dict)
        (server.directory / "ours.jwk").write_bytes(revealed(private))
        _, point = exchange_key_generate(curve)

        theirs = PlainTransport().recover(
            url=server.url, kid=jose.thumbprint(key), request=point, thumbprint="", signing_keys=()
        )

        assert theirs == exchange_answer(private, point)


@pytest.fixture
def drop_in() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    def run(program: str, *arguments: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
        command = ["clevis"] if program == "clevis" else ["unlatch", "clevis"]
        return subprocess.run(
            [*command, *arguments], input=data, capture_output=True, timeout=60, start_new_session=True
        )

    return run


@pytest.mark.parametrize("sealer", ["clevis", "unlatch"])
@pytest.mark.parametrize("opener", ["clevis", "unlatch"])
def test_drop_in_and_clevis_are_exchangeable(
    tangd: Tangd, drop_in: Callable[..., subprocess.CompletedProcess[bytes]], sealer: str, opener: str
) -> None:
    sealed = drop_in(sealer, "encrypt", "tang", json.dumps({"url": tangd.url}), "-y", data=b"hello")
    opened = drop_in(opener, "decrypt", data=sealed.stdout)

    assert (sealed.returncode, opened.returncode, opened.stdout) == (0, 0, b"hello")


@pytest.mark.parametrize(
    "config",
    [
        '{"url":"http://127.0.0.1:9"}',
        '{"url":"URL","thp":"AAAA"}',
        '{"url":"URL","adv":"no.jws"}',
        "{}",
        "[]",
        "{bad",
        '{"url":"URL"}',
    ],
)
def test_drop_in_fails_with_clevis_first_line(
    tangd: Tangd, drop_in: Callable[..., subprocess.CompletedProcess[bytes]], config: str
) -> None:
    config = config.replace("URL", tangd.url)

    theirs = drop_in("clevis", "encrypt", "tang", config, data=b"x")
    ours = drop_in("unlatch", "encrypt", "tang", config, data=b"x")

    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout) == (1, b"")
    assert ours.stderr.splitlines()[0] == theirs.stderr.splitlines()[0]
