"""What `unlatch exec` is told, and where it finds a program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.secrets import secret

from unlatch.__main__ import run
from unlatch.errors import ConfigError, UsageError
from unlatch.memguard import credentials
from unlatch.tools.exec import NOT_EXECUTABLE, NOT_FOUND, OWN_FAILURE, find_program, read_plan


def test_every_secret_is_a_file_when_nothing_is_said() -> None:
    plan = read_plan((), (), (), known=("tls", "psp"))

    assert plan.files == {"tls": "tls", "psp": "psp"}
    assert (plan.descriptors, plan.variables) == ({}, {})


def test_each_secret_goes_where_it_is_wanted_and_nowhere_else() -> None:
    plan = read_plan(("tls=key.pem", "ca"), ("psp=3", "psp=0"), ("psp=TOKEN",), known=("tls", "psp", "ca"))

    assert plan.files == {"key.pem": "tls", "ca": "ca"}
    assert plan.descriptors == {3: "psp", 0: "psp"}
    assert plan.variables == {"TOKEN": "psp"}
    assert plan.names == {"tls", "ca", "psp"}


@pytest.mark.parametrize(
    ("secrets", "descriptors", "variables"),
    [
        (("tls=../key",), (), ()),
        (("tls=..",), (), ()),
        (("tls=.",), (), ()),
        (("tls=",), (), ()),
        (("=key",), (), ()),
        (("tls=a/b",), (), ()),
        (("tls=key\n",), (), ()),
        (("tls=key", "psp=key"), (), ()),
        ((), ("psp",), ()),
        ((), ("psp=x",), ()),
        ((), ("psp=-1",), ()),
        ((), ("psp=03",), ()),
        ((), ("psp=1",), ()),
        ((), ("psp=2",), ()),
        ((), ("psp=3", "tls=3"), ()),
        ((), (), ("psp",)),
        ((), (), ("psp=A=B",)),
        ((), (), ("psp=1A",)),
        ((), (), ("psp=A", "tls=A")),
    ],
)
def test_place_that_is_none_is_refused(
    secrets: tuple[str, ...], descriptors: tuple[str, ...], variables: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError):
        read_plan(secrets, descriptors, variables, known=None)


def test_program_is_found_as_the_shell_finds_it(tmp_path: Path) -> None:
    for name, mode in (("first", 0o644), ("second", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tool").write_text("#!/bin/sh\n")
        (tmp_path / name / "tool").chmod(mode)
    path = os.pathsep.join(str(tmp_path / name) for name in ("none", "first", "second"))

    assert find_program("tool", path) == str(tmp_path / "second" / "tool")
    assert find_program(str(tmp_path / "second" / "tool"), "") == str(tmp_path / "second" / "tool")


@pytest.mark.parametrize(
    ("name", "code"), [("tool", NOT_EXECUTABLE), (".", NOT_EXECUTABLE), ("nope", NOT_FOUND)]
)
def test_program_that_cannot_be_executed_is_told_from_one_that_is_not_there(
    tmp_path: Path, name: str, code: int
) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")

    with pytest.raises(ConfigError) as caught:
        find_program(name, str(tmp_path))

    assert caught.value.exit_code == code


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), OWN_FAILURE),
        (("pay.jwe",), OWN_FAILURE),
        (("pay.jwe", "--nope", "--", "true"), OWN_FAILURE),
        (("pay.jwe", "--timeout", "soon", "--", "true"), OWN_FAILURE),
        (("pay.jwe", "--", "true"), OWN_FAILURE),
        (("pay.jwe", "--", "./pay.jwe"), NOT_FOUND),
        (("--help",), 0),
    ],
)
def test_own_failures_have_codes_that_no_program_should_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(tmp_path)

    assert run(["exec", *arguments]) == code


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 1 << 19])
def test_secret_fits_into_its_descriptor_and_is_read_once(size: int) -> None:
    value = os.urandom(size)
    reading = credentials.descriptor_of(secret(value))
    with os.fdopen(reading, "rb") as file:
        assert file.read() == value
        assert file.read() == b""


def test_secret_that_no_pipe_holds_is_refused() -> None:
    limit = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    if os.geteuid() == 0:
        limit = 1 << 31  # root may pass it; what is no power of two below 2^31 may not
    value = secret(bytes(1))
    with pytest.raises(ConfigError, match="does not fit"):
        credentials.descriptor_of(_Long(limit, value))  # type: ignore[arg-type]


class _Long:
    """A secret of any length, for the size alone."""

    def __init__(self, size: int, value: object) -> None:
        self._size = size
        self.value = value

    def __len__(self) -> int:
        return self._size


def test_file_systems_in_memory_are_told_from_others(tmp_path: Path) -> None:
    assert credentials.file_system(Path("/dev/shm")) == credentials.TMPFS_MAGIC
    assert credentials.file_system(Path("/proc")) not in (credentials.TMPFS_MAGIC, credentials.RAMFS_MAGIC)
    assert credentials.file_system(tmp_path / "none") is None
