"""What is said of a host, fact by fact."""

from __future__ import annotations

import dataclasses

import pytest

from unlatch.memguard.doctor import facts
from unlatch.memguard.doctor.facts import Host, swaps_of
from unlatch.memguard.doctor.finding import Finding, exit_code, failure, ok, warning
from unlatch.memguard.doctor.host import EARLIEST, check, open_files

GOOD = Host(
    release="6.12.9-amd64",
    is_root=True,
    landlock=6,
    seccomp=frozenset({"kill_process", "kill_thread", "trap", "errno", "trace", "log", "allow"}),
    locked_bytes=None,
    open_files=1 << 20,
    core_pattern="core",
    suid_dumpable="0",
    ptrace_scope="1",
    now=EARLIEST + 1,
)


def test_host_that_has_everything_is_well() -> None:
    assert {one.level for one in check(GOOD)} == {"ok"}


@pytest.mark.parametrize(
    ("changed", "level", "where", "words"),
    [
        ({"release": "5.4.0"}, "warning", "kernel", "older than 5.10"),
        ({"release": "unknown"}, "warning", "kernel", "not one of Linux"),
        (
            {"secret_memory": "Function not implemented"},
            "warning",
            "memfd_secret",
            "Function not implemented",
        ),
        ({"keyring": "Operation not permitted"}, "warning", "keyring", "Operation not permitted"),
        ({"keyring": "Disk quota exceeded"}, "warning", "keyring", "quota"),
        ({"landlock": 0}, "warning", "landlock", "filter alone"),
        ({"seccomp": frozenset()}, "failure", "seccomp", "allow, errno, kill_process, trap"),
        ({"seccomp": frozenset({"allow", "errno", "trap"})}, "failure", "seccomp", "with kill_process"),
        ({"locked_bytes": 8 << 20}, "warning", "limit of locked memory", "8192 KiB"),
        ({"swaps": {"/dev/sda2": "disk"}}, "warning", "swap on /dev/sda2", "in clear"),
        ({"suid_dumpable": "1"}, "warning", "core files", "suid_dumpable is 1"),
        ({"suid_dumpable": "2"}, "warning", "core files", "suid_dumpable is 2"),
        ({"ptrace_scope": "0"}, "warning", "tracing", "ptrace_scope is 0"),
        ({"ptrace_scope": None}, "warning", "tracing", "no Yama"),
        ({"now": 0.0}, "failure", "clock", "before 2025"),
    ],
)
def test_each_lack_is_told_with_the_next_step(
    changed: dict[str, object], level: str, where: str, words: str
) -> None:
    found = [one for one in check(dataclasses.replace(GOOD, **changed)) if one.level != "ok"]  # type: ignore[arg-type]

    assert [(one.level, one.where) for one in found] == [(level, where)]
    assert words in found[0].what
    assert found[0].next


@pytest.mark.parametrize(
    "changed",
    [
        {"locked_bytes": 16 << 20},
        {"locked_bytes": 65536, "may_lock_all": True},
        {"swaps": {"/dev/zram0": "memory", "/dev/dm-1": "encrypted"}},
        {"core_pattern": "|/lib/systemd/systemd-coredump %P"},
        {"ptrace_scope": "3"},
        {"suid_dumpable": None},
    ],
)
def test_what_is_good_enough_is_well(changed: dict[str, object]) -> None:
    assert {one.level for one in check(dataclasses.replace(GOOD, **changed))} == {"ok"}  # type: ignore[arg-type]


def test_another_system_than_linux_is_for_operators() -> None:
    (found,) = check(Host(system="Darwin"))

    assert (found.level, found.what) == ("warning", "this is Darwin")


@pytest.mark.parametrize(
    ("limit", "level"), [(None, "ok"), (20400, "ok"), (20399, "warning"), (1024, "warning")]
)
def test_every_connection_may_have_a_file_on_either_side(limit: int | None, level: str) -> None:
    found = open_files(dataclasses.replace(GOOD, open_files=limit), connections=10000, workers=2)

    assert found.level == level


def test_swap_is_told_by_where_it_goes() -> None:
    text = """Filename                                Type            Size            Used            Priority
/dev/dm-1                               partition       1000            0               -2
/dev/dm-2                               partition       1000            0               -3
/swapfile                               file            1000            0               -4
/dev/zram0                              partition       1000            0               100
"""

    assert swaps_of(text, is_encrypted={"/dev/dm-1": True, "/dev/dm-2": False}) == {
        "/dev/dm-1": "encrypted",
        "/dev/dm-2": "disk",
        "/swapfile": "disk",
        "/dev/zram0": "memory",
    }
    assert swaps_of("", is_encrypted={}) == {}


def test_this_host_is_looked_at_without_a_trace() -> None:
    first, second = facts.gather(5.0), facts.gather(5.0)

    assert first == second
    assert (first.system, first.now) == ("Linux", 5.0)
    assert first.seccomp >= {"allow", "errno"}


@pytest.mark.parametrize(
    ("levels", "code"),
    [
        ([], 0),
        ([ok("a", "b")], 0),
        ([ok("a", "b"), warning("a", "b", "c")], 23),
        ([warning("a", "b", "c"), failure("a", "b", "c"), ok("a", "b")], 22),
    ],
)
def test_worst_finding_gives_the_exit_code(levels: list[Finding], code: int) -> None:
    assert exit_code(levels) == code
