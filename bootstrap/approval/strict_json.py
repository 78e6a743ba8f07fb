"""One JSON object from outside, as UTF-8."""

from __future__ import annotations

from typing import Any

from unlatch.bootstrap import jose


def read_object(data: bytes) -> dict[str, Any]:
    """Parse the bytes of one JSON object.

    Raises:
        ValueError: not UTF-8, not JSON, not an object, a member twice, NaN or infinity, or too deep.
    """
    value = jose.read_json(data.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - one error for every wrong byte from outside
    return value
