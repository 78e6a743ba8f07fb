"""Guard's self-test as `check` runs it: the real program, and programs that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unlatch.errors import ConfigError
from unlatch.memguard.control import guard_program
from unlatch.proxy.self_test import self_test

REPORT = {
    "ok": True,
    "memory": {
        "shares": "locked pages",
        "root": "process keyring",
        "weaker": [{"name": "memfd_secret", "message": "no secret memory"}],
    },
}


@pytest.fixture
def reporter(tmp_path: Path) -> Path:
    return script(tmp_path, f"echo '{json.dumps(REPORT)}'")


def script(folder: Path, text: str) -> Path:
    program = folder / "guard"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return program


def test_guard_of_this_build_passes_under_its_filter() -> None:
    passed, *_ = self_test(guard_program())

    assert passed.startswith("guard: self-test passed under its system call filter, shares in ")


def test_weaker_host_is_told_with_what_would_help(reporter: Path) -> None:
    _, weaker = self_test(reporter)

    assert weaker.startswith("weaker: no secret memory (memfd_secret); Linux 6.5")
    assert len(list(self_test(reporter, accept=["memfd_secret"]))) == 1


def test_required_protection_that_is_missing_fails(reporter: Path) -> None:
    with pytest.raises(ConfigError, match=r"guard\.require names: no secret memory") as caught:
        list(self_test(reporter, require=["memfd_secret"], accept=["memfd_secret"]))

    assert caught.value.exit_code == 21
    assert "secretmem.enable=1" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo 'unlatch: error: signing' >&2; exit 1", "failed: unlatch: error: signing"),
        ("exit 3", "failed: exit code 3"),
        ("kill -SYS $$", "failed: signal 31"),
        ("true", "ended without a report"),
        ("echo '[]'", "ended without a report"),
        ('echo \'{"ok": false, "memory": {}}\'', "ended without a report"),
    ],
)
def test_guard_that_fails_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        list(self_test(script(tmp_path, text)))

    assert caught.value.exit_code == 21
    assert caught.value.hint


@pytest.mark.parametrize("program", ["/bin/false", "/nonexistent/guard"])
def test_program_that_is_no_guard_is_refused(program: str) -> None:
    with pytest.raises(ConfigError):
        list(self_test(Path(program)))
