"""Recovering a content key: order, quorum, corrupt shares, time-outs, and which failure is told."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.fake_tang import FakeTang
from support.secrets import revealed, secret

from unlatch.bootstrap import jose, seal
from unlatch.bootstrap.open import recover_content_key
from unlatch.bootstrap.seal import RecoveryTarget, SssTarget, TangTarget, Target
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import (
    ConfigError,
    DamagedFileError,
    DeniedError,
    UndecidedError,
    UnlatchError,
    UnreachableError,
    UntrustedGateError,
)
from unlatch.memguard._native import Secret, exchange_key_generate, jwe_open, jwe_seal, jwe_seal_to, sss_split


@dataclass
class Network:
    """Several servers by address; an error or foreign bytes may stand for one."""

    servers: dict[str, FakeTang | UnlatchError | bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def recover(
        self,
        *,
        url: str,
        kid: str,
        request: bytes,
        thumbprint: str,
        signing_keys: Sequence[Mapping[str, object]],
    ) -> bytes:
        self.asked.append(url)
        found = self.servers[url]
        if isinstance(found, UnlatchError):
            raise found
        if isinstance(found, bytes):
            return found
        return found.recover(
            url=url, kid=kid, request=request, thumbprint=thumbprint, signing_keys=signing_keys
        )


def tang(url: str = "http://a.test", curve: str = "P-256") -> tuple[FakeTang, TangTarget]:
    server = FakeTang(url=url, curve=curve)
    return server, TangTarget(url, tuple(server.keys), server.exchange_public, "pinned")


def sealed_to(target: Target) -> SealedFile:
    return SealedFile.parse(seal.encrypt(secret(b"payload"), target))


def payload(sealed: SealedFile, key: Secret) -> bytes:
    return revealed(jwe_open(sealed.compact, key))


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
def test_one_server_gives_the_key(curve: str) -> None:
    server, target = tang(curve=curve)
    sealed = sealed_to(target)

    key = recover_content_key(sealed, transport=Network({server.url: server}))

    assert payload(sealed, key) == b"payload"


def test_every_question_has_a_fresh_point() -> None:
    server, target = tang()
    sealed = sealed_to(target)

    for _ in range(3):
        recover_content_key(sealed, transport=Network({server.url: server}))

    assert len(set(server.asked)) == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>log in", "web page"),
        (b"", "not a JSON object"),
        (b"{}", "kty is not EC"),
        (b'{"kty":"EC","crv":"P-256"}', "coordinate"),
        (b'{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}', "coordinate"),
        (b'{"kty":"EC","crv":"P-256","x":"%s","y":"%s"}' % (b"A" * 43, b"A" * 43), "not on the curve"),
        (b'{"alg":"ECDH","kty":"EC"}', "alg is not ECMR"),
        (b'{"key_ops":["sign"],"kty":"EC"}', "key_ops"),
        (b'{"kty":"EC","kty":"EC"}', "not a JSON object"),
    ],
)
def test_answer_that_is_no_point_is_named_with_its_server(answer: bytes, message: str) -> None:
    server, target = tang()

    with pytest.raises(UntrustedGateError, match=message) as caught:
        recover_content_key(sealed_to(target), transport=Network({server.url: answer}))

    assert server.url in str(caught.value)
    assert caught.value.hint


def test_valid_point_that_is_the_wrong_answer_does_not_open() -> None:
    server, target = tang()
    other = FakeTang(curve="P-256")

    with pytest.raises(DamagedFileError, match="does not open the file"):
        recover_content_key(
            sealed_to(target), transport=Network({server.url: jose.write_json(other.exchange_public)})
        )


def test_epk_off_the_curve_is_refused_before_anyone_is_asked() -> None:
    server, target = tang()
    protected, rest = sealed_to(target).compact.split(b".", 1)
    header: Any = jose.read_json(jose.decode(protected.decode()))
    header["epk"]["y"] = header["epk"]["x"]
    network = Network({server.url: server})

    with pytest.raises(DamagedFileError, match=r"epk.*not on the curve"):
        recover_content_key(
            SealedFile.parse(jose.encode(jose.write_json(header)).encode() + b"." + rest), transport=network
        )

    assert network.asked == []


def test_two_of_three_open_with_one_server_down() -> None:
    servers = [tang(f"http://{name}.test") for name in "abc"]
    network = Network({server.url: server for server, _ in servers})
    network.servers["http://b.test"] = UnreachableError("b is down")
    sealed = sealed_to(SssTarget(2, tuple(target for _, target in servers)))

    assert payload(sealed, recover_content_key(sealed, transport=network)) == b"payload"


def test_too_few_shares_may_be_tried_again_only_if_that_can_help() -> None:
    servers = [tang(f"http://{name}.test") for name in "abc"]
    sealed = sealed_to(SssTarget(2, tuple(target for _, target in servers)))
    down, denied = UnreachableError("down"), DeniedError("denied")

    with pytest.raises(UnreachableError, match="1 of 2 shares"):
        recover_content_key(
            sealed,
            transport=Network(
                {"http://a.test": servers[0][0], "http://b.test": down, "http://c.test": denied}
            ),
        )
    with pytest.raises(DeniedError, match="0 of 2 shares"):
        recover_content_key(
            sealed,
            transport=Network({"http://a.test": denied, "http://b.test": down, "http://c.test": denied}),
        )


def test_people_are_not_rung_when_silent_servers_suffice() -> None:
    gate, gate_target = tang("https://gate.test/s/pay")
    plain, plain_target = tang("http://plain.test")
    network = Network({gate.url: gate, plain.url: plain})

    recover_content_key(sealed_to(SssTarget(1, (gate_target, plain_target))), transport=network)

    assert network.asked == [plain.url]


def test_nested_sharing_opens() -> None:
    servers = [tang(f"http://{name}.test") for name in "abcd"]
    a, b, c, d = (target for _, target in servers)
    sealed = sealed_to(SssTarget(2, (SssTarget(1, (a, b)), SssTarget(2, (c, d)))))
    network = Network({server.url: server for server, _ in servers})
    network.servers["http://a.test"] = UnreachableError("down")

    assert payload(sealed, recover_content_key(sealed, transport=network)) == b"payload"


def shared_by_hand(
    shares: list[bytes], prime: bytes, key: Secret, threshold: int, target: TangTarget
) -> SealedFile:
    """A sharing whose shares are given, for corrupt ones."""
    jwes = [seal.encrypt(secret(share), target).decode() for share in shares]
    sss = {"jwe": jwes, "p": jose.encode(prime), "t": threshold}
    header = jose.write_json({"clevis": {"pin": "sss", "sss": sss}})
    return SealedFile.parse(jwe_seal(header, secret(b"payload"), key))


@pytest.mark.parametrize("corrupt", [b"\1" * 64, b"\1" * 63, b"\xff" * 64, b""])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_corrupt_share_does_not_hinder_the_others(corrupt: bytes, place: int) -> None:
    server, target = tang()
    prime, key, shares = sss_split(2, 3)
    given = [revealed(share) for share in shares]
    given[place] = corrupt
    sealed = shared_by_hand(given, prime, key, 2, target)

    assert payload(sealed, recover_content_key(sealed, transport=server)) == b"payload"


def test_only_corrupt_shares_are_a_damaged_file() -> None:
    server, target = tang()
    prime, key, shares = sss_split(2, 2)
    sealed = shared_by_hand([revealed(shares[0]), revealed(shares[0])], prime, key, 2, target)

    with pytest.raises(DamagedFileError, match="no 2 of 2 shares open"):
        recover_content_key(sealed, transport=server)


def test_recovery_key_opens_without_any_server() -> None:
    _, target = tang()
    private, public = exchange_key_generate("P-521")
    sealed = sealed_to(SssTarget(1, (target, RecoveryTarget(seal.read_recovery_key(public)))))

    key = recover_content_key(sealed, transport=Network(), recovery_key=private)

    assert payload(sealed, key) == b"payload"


def test_wrong_recovery_key_and_no_server_is_refused() -> None:
    server, target = tang()
    private, _ = exchange_key_generate("P-521")
    _, public = exchange_key_generate("P-521")
    sealed = sealed_to(SssTarget(1, (target, RecoveryTarget(seal.read_recovery_key(public)))))
    network = Network({server.url: DeniedError("denied")})

    with pytest.raises(DamagedFileError, match="recovery key does not open"):
        recover_content_key(sealed, transport=network, recovery_key=private)


def test_missing_recovery_key_is_not_named_beside_a_real_failure() -> None:
    server, target = tang()
    _, public = exchange_key_generate("P-521")
    sealed = sealed_to(SssTarget(1, (target, RecoveryTarget(seal.read_recovery_key(public)))))

    with pytest.raises(DeniedError, match=r"^denied$"):
        recover_content_key(sealed, transport=Network({server.url: DeniedError("denied")}))


@pytest.mark.parametrize("private", [b"{}", b'{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"AA"}', b"x"])
def test_recovery_file_that_is_private_or_no_key_is_refused_at_sealing(private: bytes) -> None:
    with pytest.raises(ConfigError):
        seal.read_recovery_key(private)


class Silence:
    """A server that takes the question and never answers, until the test ends."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def recover(self, **_: object) -> bytes:
        self.release.wait()
        return b""


@pytest.mark.parametrize(
    ("url", "error"), [("http://a.test", UnreachableError), ("https://gate.test/s/pay", UndecidedError)]
)
def test_silent_server_runs_into_its_time_out(url: str, error: type[UnlatchError]) -> None:
    _, target = tang(url)
    silence = Silence()

    with pytest.raises(error, match=r"0\.01 s"):
        recover_content_key(sealed_to(target), transport=silence, silent_timeout=0.01, asking_timeout=0.01)

    silence.release.set()


def test_hanging_server_does_not_delay_a_sharing_that_has_enough() -> None:
    server, target = tang("http://a.test")
    _, silent_target = tang("http://b.test")
    silence = Silence()

    class Both:
        def recover(self, **asked: Any) -> bytes:
            return server.recover(**asked) if asked["url"] == server.url else silence.recover()

    sealed = sealed_to(SssTarget(1, (silent_target, target)))
    key = recover_content_key(sealed, transport=Both(), silent_timeout=60)
    silence.release.set()

    assert payload(sealed, key) == b"payload"


def test_bug_in_a_transport_is_not_swallowed() -> None:
    _, target = tang()

    class Broken:
        def recover(self, **_: object) -> bytes:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        recover_content_key(sealed_to(SssTarget(1, (target, target))), transport=Broken())


def test_null_pin_opens_only_where_it_is_allowed() -> None:
    key = Secret.random(32)
    jwk = {"k": jose.encode(revealed(key)), "kty": "oct"}
    header = jose.write_json({"clevis": {"pin": "null", "null": {"jwk": jwk}}})
    sealed = SealedFile.parse(jwe_seal(header, secret(b"payload"), key))

    with pytest.raises(DamagedFileError, match="protects nothing"):
        recover_content_key(sealed, transport=Network())
    assert payload(sealed, recover_content_key(sealed, transport=Network(), allow_null=True)) == b"payload"


def test_unknown_pin_is_named() -> None:
    _, target = tang()
    header = jose.write_json({"clevis": {"pin": "yubikey"}, "kid": "x"})
    sealed = SealedFile.parse(jwe_seal_to(header, secret(b""), jose.write_json(target.exchange_key)))

    with pytest.raises(DamagedFileError, match="'yubikey' is not known"):
        recover_content_key(sealed, transport=Network())
