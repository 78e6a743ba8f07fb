"""The health address: what each state answers."""

import asyncio
from pathlib import Path

import pytest

from unlatch.proxy.health import decide, serve_health


@pytest.mark.parametrize(
    ("method", "target", "state", "status"),
    [
        (b"GET", b"/livez", "locked", 200),
        (b"GET", b"/readyz", "serving", 200),
        (b"HEAD", b"/readyz", "serving", 200),
        (b"GET", b"/readyz", "asking", 503),
        (b"GET", b"/readyz", "locked", 503),
        (b"POST", b"/readyz", "serving", 405),
        (b"GET", b"/metrics", "serving", 404),
        (b"GET", b"/readyz?x", "serving", 404),
    ],
)
def test_answer_follows_the_state(method: bytes, target: bytes, state: str, status: int) -> None:
    assert decide(method, target, state)[0] == status


@pytest.mark.parametrize(
    ("request_bytes", "begins"),
    [
        (b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 503"),
        (b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200"),
        (b"GET  nonsense\r\n\r\n", b""),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20000 + b"\r\n\r\n", b""),
    ],
)
def test_server_answers_over_a_socket(request_bytes: bytes, begins: bytes) -> None:
    async def ask() -> bytes:
        server = await serve_health("127.0.0.1:0", lambda: "locked")
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(request_bytes)
            try:
                answer = await reader.read()
            except ConnectionResetError:
                answer = b""
            writer.close()
        return answer

    answer = asyncio.run(ask())

    assert answer.startswith(begins) if begins else answer == b""


def test_documented_paths_are_those_that_answer() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()

    assert "`/livez`" in text
    assert "`/readyz`" in text
