"""Runs `unlatch clevis …` inside the test process, with descriptors as a shell would give them."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unlatch.__main__ import run


class Result:
    code: int
    out: bytes
    err: str


@contextmanager
def standard_input(folder: Path, data: bytes) -> Iterator[None]:
    file = folder / "stdin"
    file.write_bytes(data)
    saved = os.dup(0)
    fd = os.open(file, os.O_RDONLY)
    os.dup2(fd, 0)
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(fd)


def clevis(
    arguments: list[str],
    data: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    patch: pytest.MonkeyPatch,
) -> Result:
    """Run `unlatch clevis …` in this process, with descriptors as a shell would give them."""
    result = Result()
    with standard_input(folder, data.encode("utf-8", "surrogateescape")):
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.FileIO(os.dup(0))))
        result.code = run(arguments)
        sys.stdin.close()
    captured = capfd.readouterr()
    result.out, result.err = captured.out.encode("utf-8", "surrogateescape"), captured.err
    return result
