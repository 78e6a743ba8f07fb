"""JSON objects from outside."""

from __future__ import annotations

import pytest

from unlatch.bootstrap.approval.strict_json import MAX_DEPTH, check_version, read_object
from unlatch.bootstrap.approval.words import printable


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"1", b"{", b"\xff", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":1e999}', b'{"a":[-1e999]}', b'{"a":"\\ud800"}', b'{"a":' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_bytes_that_are_no_plain_object_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_object(data)


@pytest.mark.parametrize(
    ("depth", "fits"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (900, False), (200_000, False)]
)
def test_nesting_is_bounded(depth: int, fits: bool) -> None:
    data = b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    if fits:
        assert "a" in read_object(data)
    else:
        with pytest.raises(ValueError, match="nested"):
            read_object(data)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 2])
def test_version_is_a_whole_number(value: object) -> None:
    check_version(1, 1)
    with pytest.raises(ValueError, match="version"):
        check_version(value, 1)


@pytest.mark.parametrize(("text", "shown"), [("mara", "mara"), ("a\x1b[2Jb", "a?[2Jb"), ("a\nb", "a?b"), ("a\u202eb", "a?b"), ("x" * 500, "x" * 200), (7, "7")])  # fmt: skip
def test_words_from_the_other_side_stay_on_their_line(text: object, shown: str) -> None:
    assert printable(text) == shown
