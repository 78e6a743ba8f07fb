"""The index finds what a plain search finds, wherever it stands and however memory is cut into blocks."""

from __future__ import annotations

import os
import tempfile

from hypothesis import given
from hypothesis import strategies as st

from unlatch.memguard import process_memory
from unlatch.memguard.doctor.facts import swaps_of
from unlatch.memguard.doctor.find_key import program_head
from unlatch.memguard.process_memory import Mapping
from unlatch.memguard.scan import Index, forms

SECRET = bytes(range(60, 100))
INDEX = Index(forms(SECRET))
PIECES = st.tuples(st.integers(0, 24), st.integers(16, 40)).map(lambda one: SECRET[one[0] : one[0] + one[1]])
NOISE = st.binary(max_size=40).map(lambda data: bytes(byte | 0x80 for byte in data))


@given(st.lists(st.tuples(NOISE, PIECES), max_size=5), NOISE)
def test_every_piece_between_noise_is_found(parts: list[tuple[bytes, bytes]], tail: bytes) -> None:
    data, expected = b"", []
    for noise, piece in parts:
        data += noise + b"\xff"
        if len(piece) >= 16:
            expected.append((len(data), len(piece)))
        data += piece
    data += b"\xff" + tail

    assert [(run.start, run.size) for run in INDEX.runs(memoryview(data), 0)] == expected


@given(st.binary(max_size=4096))
def test_arbitrary_memory_is_never_an_error(data: bytes) -> None:
    for run in INDEX.runs(memoryview(data), 0):
        assert data[run.start : run.end] == run.form.data[run.offset : run.offset + run.size]


@given(st.text(max_size=120))
def test_line_of_a_map_is_read_or_refused(line: str) -> None:
    try:
        Mapping.parse(line)
    except ValueError:
        return


@given(st.integers(1, 3000), st.integers(64, 200), st.integers(0, 63))
def test_blocks_overlap_and_miss_nothing(size: int, room: int, overlap: int) -> None:
    content = os.urandom(size)
    seen = b""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        buffer = bytearray(room)
        for block in process_memory._read(file.fileno(), 1000, 1000 + size, 1000, buffer, overlap):
            assert block.data is not None
            start = block.start - 1000
            assert bytes(block.data) == content[start : start + block.size]
            assert block.goes_on == (start + block.size < size)
            seen += bytes(block.data[block.kept :])

    assert seen == content


@given(st.integers(1, 3000), st.integers(64, 200), st.integers(0, 63), st.integers(1, 3000))
def test_what_cannot_be_read_is_told_and_hides_nothing_before_it(
    size: int, room: int, overlap: int, beyond: int
) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(size))
        file.flush()
        blocks = [
            (block.start, block.size, block.data is not None, block.goes_on)
            for block in process_memory._read(file.fileno(), 0, size + beyond, 0, bytearray(room), overlap)
        ]
    ends = [start + length for start, length, is_read, goes_on in blocks if is_read and not goes_on]

    assert sum(length for _, length, is_read, _ in blocks if not is_read) == beyond
    assert ends == ([size] if overlap else [])


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"\x7fELF\x02" + data))
def test_head_of_any_file_is_its_beginning(data: bytes) -> None:
    assert data.startswith(program_head(data))


@given(st.text(max_size=200))
def test_table_of_swaps_is_read_whatever_stands_there(text: str) -> None:
    assert set(swaps_of(text, is_encrypted={}).values()) <= {"disk", "memory"}
