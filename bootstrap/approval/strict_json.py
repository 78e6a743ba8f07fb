"""JSON from outside: one object, no member twice, no NaN, bounded depth."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_DEPTH = 16


def read_object(data: bytes) -> dict[str, Any]:
    """Parse the bytes of one JSON object.

    Raises:
        ValueError: not UTF-8, not JSON, not an object, a member twice, NaN or infinity, or too deep.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_members, parse_constant=_constant)
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    _check_depth(value, MAX_DEPTH)
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a JSON member stands twice")
    return members


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_depth(value: object, left: int) -> None:
    if left == 0:
        raise ValueError("JSON nested too deep")
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        _check_depth(child, left - 1)
