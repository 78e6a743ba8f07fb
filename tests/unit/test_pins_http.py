"""Plain Tang over HTTP: what curl -sf takes, what it refuses, and how each refusal is told."""

import pytest
from support.scripted_http import Answer, Asked, ScriptedServer

from unlatch.bootstrap.http import MAX_REPLY_BYTES
from unlatch.bootstrap.pins.http import PlainTransport, without_userinfo
from unlatch.errors import (
    BusyError,
    ConfigError,
    PolicyRefusedError,
    UnknownKeyError,
    UnlatchError,
    UnreachableError,
    UntrustedGateError,
)


def recover(url: str, timeout: float | None = 5.0) -> bytes:
    return PlainTransport(timeout=timeout).recover(
        url=url, kid="KID", request=b"{}\n", thumbprint="", signing_keys=()
    )


def test_point_is_posted_as_clevis_posts_it() -> None:
    with ScriptedServer(lambda _: Answer(b"answer")) as server:
        body = recover(server.url)

    (asked,) = server.asked
    assert body == b"answer"
    assert (asked.method, asked.path, asked.body) == ("POST", "/rec/KID", b"{}\n")
    assert asked.headers["Content-Type"] == "application/jwk+json"
    assert "Authorization" not in asked.headers


def test_advertisement_is_fetched_by_thumbprint() -> None:
    with ScriptedServer(lambda _: Answer(b"jws")) as server:
        PlainTransport().advertisement(f"{server.url}/s/pay", thumbprint="THP")
        PlainTransport().advertisement(server.url)

    assert [asked.path for asked in server.asked] == ["/s/pay/adv/THP", "/adv/"]


def test_address_without_scheme_is_http() -> None:
    with ScriptedServer(lambda _: Answer(b"answer")) as server:
        assert recover(server.url.removeprefix("http://")) == b"answer"


def test_name_and_password_of_the_address_are_sent_and_not_shown() -> None:
    with ScriptedServer(lambda _: Answer(status=500)) as server:
        url = server.url.replace("://", "://user:pa55@")
        with pytest.raises(UnreachableError) as caught:
            recover(url)

    assert server.asked[0].headers["Authorization"] == "Basic dXNlcjpwYTU1"
    assert "pa55" not in str(caught.value)


def test_netrc_is_not_read(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    netrc = Path(str(tmp_path)) / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))

    with ScriptedServer(lambda _: Answer(b"answer")) as server:
        recover(server.url)

    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize("status", [200, 201, 202])
def test_any_success_is_taken_by_its_body(status: int) -> None:
    with ScriptedServer(lambda _: Answer(b"answer", status)) as server:
        assert recover(server.url) == b"answer"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, UntrustedGateError),
        (302, UntrustedGateError),
        (307, UntrustedGateError),
        (400, UnreachableError),
        (403, PolicyRefusedError),
        (404, UnknownKeyError),
        (429, BusyError),
        (500, UnreachableError),
        (503, BusyError),
    ],
)
def test_refusal_is_told_by_its_status(status: int, error: type[UnlatchError]) -> None:
    def answer(asked: Asked) -> Answer:
        return (
            Answer(b"good", status, {"Location": "/elsewhere"})
            if asked.path == "/rec/KID"
            else Answer(b"bad")
        )

    with ScriptedServer(answer) as server, pytest.raises(error) as caught:
        recover(server.url)

    assert server.url in str(caught.value)
    assert caught.value.hint
    assert len(server.asked) == 1


def test_flood_is_cut() -> None:
    with (
        ScriptedServer(lambda _: Answer(b"x" * (MAX_REPLY_BYTES + 1))) as server,
        pytest.raises(UntrustedGateError, match="more than"),
    ):
        recover(server.url)


def test_refused_connection_is_unreachable() -> None:
    with ScriptedServer(lambda _: Answer()) as server:
        url = server.url

    with pytest.raises(UnreachableError, match="does not answer"):
        recover(url)


@pytest.mark.parametrize("url", ["foo bar", "http://", "http://[", ""])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(UnlatchError):
        recover(url)


def test_other_schemes_are_refused() -> None:
    with pytest.raises(ConfigError, match="http or https"):
        recover("file:///etc/passwd")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@gate.test/s/pay", "https://gate.test/s/pay"),
        ("user:pw@gate.test", "gate.test"),
        ("http://gate.test/@x", "http://gate.test/@x"),
    ],
)
def test_userinfo_is_left_out_of_messages(url: str, shown: str) -> None:
    assert without_userinfo(url) == shown
