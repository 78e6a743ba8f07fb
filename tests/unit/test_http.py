"""HTTP for whoever asks: bounded in size and time, nothing followed, nothing added."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.scripted_http import Answer, ScriptedServer

from unlatch.bootstrap import http
from unlatch.bootstrap.http import MAX_REPLY_BYTES, HttpReply, RequestsHttp
from unlatch.errors import UnreachableError, UntrustedGateError


def get(url: str, *, seconds: float = 10.0) -> HttpReply:
    return RequestsHttp().send("GET", url, headers={}, body=None, seconds=seconds)


@contextmanager
def dripping() -> Iterator[str]:
    """A server that sends one byte of an endless head now and then."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"a")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        stop.set()
        thread.join()


def test_reply_is_given_whole() -> None:
    with ScriptedServer(lambda _: Answer(b"body", 403, {"Retry-After": "5"})) as server:
        reply = get(server.url)

    assert (reply.status, reply.body, reply.header("RETRY-AFTER")) == (403, b"body", "5")


def test_redirect_is_not_followed() -> None:
    with ScriptedServer(lambda _: Answer(b"", 302, {"Location": "/elsewhere"})) as server:
        assert get(server.url).status == 302
        assert len(server.asked) == 1


def test_reply_over_64_kib_is_refused() -> None:
    with (
        ScriptedServer(lambda _: Answer(b"x" * (MAX_REPLY_BYTES + 1))) as server,
        pytest.raises(UntrustedGateError),
    ):
        get(server.url)


def test_nobody_listening_is_unreachable_and_hides_the_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UnreachableError) as caught:
        get(f"http://user:secret@127.0.0.1:{port}/path?query")
    assert "secret" not in str(caught.value)
    assert "query" not in str(caught.value)


def test_reply_that_drips_ends_at_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "GRACE_SECONDS", 0.2)
    with dripping() as url, pytest.raises(UnreachableError, match="does not answer in time"):
        get(url, seconds=0.3)


def test_password_of_netrc_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login root password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with ScriptedServer(lambda _: Answer(b"")) as server:
        get(server.url)

        assert "Authorization" not in server.asked[0].headers


def test_password_in_the_address_is_sent() -> None:
    with ScriptedServer(lambda _: Answer(b"")) as server:
        get(server.url.replace("://", "://user:pass@"))

        assert server.asked[0].headers["Authorization"] == "Basic dXNlcjpwYXNz"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5.0), ("0", 1.0), ("-3", 1.0), ("99999", 3600.0), ("inf", None), ("nan", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("", None)],
)  # fmt: skip
def test_retry_after_is_bounded(text: str, seconds: float | None) -> None:
    assert HttpReply(429, b"", {"retry-after": text}).retry_after == seconds


def test_no_retry_after_is_none() -> None:
    assert HttpReply(429, b"").retry_after is None
