"""One JSON object from outside, as UTF-8."""

from __future__ import annotations

import math
from typing import Any

from unlatch.bootstrap import jose

MAX_DEPTH = 16  # our deepest format has 5 levels; canonical JSON is written by recursion


def read_object(data: bytes) -> dict[str, Any]:
    """Parse the bytes of one JSON object.

    Raises:
        ValueError: not UTF-8, not JSON, not an object, a member twice, a number out of range, or over 16 levels deep.
    """
    value = jose.read_json(data.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - one error for every wrong byte from outside
    _check(value)
    return value


def check_version(value: object, version: int) -> None:
    """Refuse another format. True is no 1 here, although Python says so.

    Raises:
        ValueError: it is another.
    """
    if type(value) is not int or value != version:
        raise ValueError(f"another version than {version}")


def _check(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        if any(isinstance(one, float) and not math.isfinite(one) for one in level):
            raise ValueError("a number out of range")
        level = [inner for one in level for inner in _inner(one)]
        if not level:
            return
    raise ValueError("JSON nested too deeply")


def _inner(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
