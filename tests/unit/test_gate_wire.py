"""Frames between decider and keyholder."""

from __future__ import annotations

from typing import Any

import pytest

from unlatch.gate import wire


def test_frame_is_read_as_it_was_written() -> None:
    data = wire.frame({"do": "hello", "list": [1]})

    assert wire.frame_length(data[:4]) == len(data) - 4
    assert wire.read_frame(data[4:]) == {"do": "hello", "list": [1]}


@pytest.mark.parametrize(
    "head", [b"", b"\0\0\0", b"\0\0\0\0", b"\xff\xff\xff\xff", (wire.MAX_FRAME_BYTES + 1).to_bytes(4, "big")]
)
def test_impossible_length_is_refused(head: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.frame_length(head)


def test_frame_over_the_limit_is_not_written() -> None:
    with pytest.raises(wire.WireError):
        wire.frame({"text": "x" * wire.MAX_FRAME_BYTES})


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b'{"a":1,"a":1}', b'{"a":' + b"[" * 500 + b"]" * 500 + b"}"]
)
def test_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.read_frame(body)


def test_refusal_is_raised_with_its_kind() -> None:
    with pytest.raises(wire.KeyholderRefusal, match="no") as caught:
        wire.read_answer({"refused": "denied", "message": "no"})
    assert caught.value.kind == "denied"


@pytest.mark.parametrize("answer", [{}, {"ok": None}, {"ok": [1]}, {"error": 1}])
def test_answer_that_is_none_is_a_refusal(answer: dict[str, Any]) -> None:
    with pytest.raises(wire.KeyholderRefusal):
        wire.read_answer(answer)


@pytest.mark.parametrize("value", [None, 1, "", "YQ==", "!", ["YQ"], True])
def test_bytes_are_canonical_base64url(value: Any) -> None:
    if value == "":
        assert wire.bytes_of({"data": value}, "data") == b""
        return
    with pytest.raises(wire.WireError):
        wire.bytes_of({"data": value}, "data")


@pytest.mark.parametrize("value", [None, "1", -1, 1.0, True])
def test_counts_are_whole_numbers_from_zero_on(value: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.number_of({"n": value}, "n")


@pytest.mark.parametrize("value", [None, {}, "list", [1, 2, 3]])
def test_lists_are_bounded(value: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.list_of({"l": value}, "l", limit=2)
