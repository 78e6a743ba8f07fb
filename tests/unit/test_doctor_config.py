"""What is said of a configuration on a host."""

from __future__ import annotations

import dataclasses

import pytest

from unlatch.errors import ConfigError
from unlatch.memguard.doctor.facts import Host
from unlatch.proxy import doctor
from unlatch.proxy.config import Config
from unlatch.proxy.users import Identity

GOOD = Host(is_root=True, landlock=6, locked_bytes=None, open_files=1 << 20)
GATE = "A" * 43


def config(**sections: object) -> Config:
    plain: dict[str, object] = {
        "unlock": {"bundle": "pay.jwe", "gates": [GATE]},
        "listeners": [{"bind": ["127.0.0.1:1"], "certificates": [{"chain": "a", "key": "sealed:a"}]}],
        "routes": [{"upstream": "app"}],
        "upstreams": {"app": {"servers": ["127.0.0.1:2"]}},
    }
    return Config.model_validate(plain | sections)


def judged(one: Config, host: Host = GOOD) -> list[tuple[str, str]]:
    found = doctor.check(one, host, where="unlatch.yaml", processors=2)
    return [(finding.level, finding.what) for finding in found if finding.level != "ok"]


def test_configuration_that_fits_its_host_is_well() -> None:
    everything = {"guard": {"require": ["memfd_secret", "keyring", "all_locked", "landlock", "own_user"]}}

    assert judged(config(**everything)) == []


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"secret_memory": "Function not implemented"}, "memfd_secret"),
        ({"keyring": "Operation not permitted"}, "keyring"),
        ({"locked_bytes": 64 << 20}, "all_locked"),
        ({"landlock": 0}, "landlock"),
        ({"is_root": False}, "own_user"),
    ],
)
def test_protection_that_is_required_and_missing_is_a_failure(changed: dict[str, object], name: str) -> None:
    host = dataclasses.replace(GOOD, **changed)  # type: ignore[arg-type]
    found = judged(config(guard={"require": [name]}), host)

    assert list(doctor.missing(host)) == [name]
    assert [level for level, _ in found] == ["failure"]
    assert name in found[0][1]
    assert judged(config(), host) == []


def test_little_locked_memory_hides_nothing() -> None:
    host = dataclasses.replace(GOOD, locked_bytes=1 << 20)

    assert list(doctor.missing(host)) == ["memfd_secret", "all_locked"]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"unlock": {"bundle": "pay.jwe"}}, "names no gate"),
        ({"unlock": {"bundle": "pay.jwe", "gates": [GATE], "unbound": True}}, "without sealed rules"),
        ({"limits": {"connections": 10_000_000}}, "limits.connections"),
    ],
)
def test_weak_setting_is_warned_of(sections: dict[str, object], words: str) -> None:
    ((level, what),) = judged(config(**sections))

    assert level == "warning"
    assert words in what


def test_users_are_told_or_missed() -> None:
    own = {"guard": Identity(901, 901), "edge": Identity(902, 902), "egress": Identity(903, 903)}
    wrong = ConfigError("users.guard: there is no user 'x'", hint="useradd --system x")

    assert doctor.users(own, "users").level == "ok"
    assert "guard is 901:901" in doctor.users(own, "users").what
    assert doctor.users({}, "users").level == "warning"
    assert (doctor.users(wrong, "users").level, doctor.users(wrong, "users").next) == (
        "failure",
        "useradd --system x",
    )
