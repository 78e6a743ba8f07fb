"""Decider ↔ keyholder: u32 length ‖ JSON, one answer for each question, in order.

Questions are ``{"do": NAME, …}``, answers ``{"ok": {…}}`` or ``{"refused": KIND, "message": …}``. Bytes travel as
base64url. A frame over 256 KiB, or one that is no JSON object, ends the connection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from unlatch.bootstrap.approval import base64url, strict_json
from unlatch.errors import RefusedError, UnavailableError

MAX_FRAME_BYTES = 256 * 1024
LENGTH_BYTES = 4


class WireError(RefusedError):
    """A frame that is none: the connection is closed."""


class KeyholderRefusal(RefusedError):  # noqa: N818 - names who said it; the facts are `kind` and the message
    """Keyholder said no. `kind` is one of docs/protocol.md section 9: answered, denied, code, refused, malformed, unknown."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class KeyholderGoneError(UnavailableError):
    """Keyholder's socket is closed."""


def frame(message: Mapping[str, Any]) -> bytes:
    """One message as bytes."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {len(body)} bytes, {MAX_FRAME_BYTES} are allowed")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def frame_length(head: bytes) -> int:
    """The length that a frame's first four bytes announce.

    Raises:
        WireError: too long, or nothing.
    """
    length = int.from_bytes(head, "big")
    if len(head) != LENGTH_BYTES or not 0 < length <= MAX_FRAME_BYTES:
        raise WireError("a frame of an impossible length")
    return length


def read_frame(body: bytes) -> dict[str, Any]:
    """The message in a frame's body.

    Raises:
        WireError: not one JSON object.
    """
    try:
        return strict_json.read_object(body)
    except ValueError as error:
        raise WireError("a frame that is no JSON object") from error


def read_answer(message: Mapping[str, Any]) -> dict[str, Any]:
    """What keyholder answered.

    Raises:
        KeyholderRefusal: it said no.
    """
    answer = message.get("ok")
    if isinstance(answer, dict):
        return answer
    raise KeyholderRefusal(
        str(message.get("refused", "malformed")), str(message.get("message", "no reason given"))
    )


def bytes_of(message: Mapping[str, Any], name: str) -> bytes:
    """A member that holds bytes.

    Raises:
        WireError: missing or not base64url.
    """
    try:
        return base64url.decode(text_of(message, name))
    except ValueError as error:
        raise WireError(f"{name} is not base64url") from error


def text_of(message: Mapping[str, Any], name: str) -> str:
    """A member that holds text.

    Raises:
        WireError: missing or of another type.
    """
    value = message.get(name)
    if not isinstance(value, str):
        raise WireError(f"{name} is no text")
    return value


def number_of(message: Mapping[str, Any], name: str) -> int:
    """A member that holds a count.

    Raises:
        WireError: missing, negative or of another type.
    """
    value = message.get(name)
    if type(value) is not int or value < 0:
        raise WireError(f"{name} is no count")
    return value


def list_of(message: Mapping[str, Any], name: str, *, limit: int) -> list[Any]:
    """A member that holds a list.

    Raises:
        WireError: missing, longer than `limit` or of another type.
    """
    value = message.get(name)
    if not isinstance(value, list) or len(value) > limit:
        raise WireError(f"{name} is no list of at most {limit}")
    return value
