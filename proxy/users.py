"""Who guard, edge and egress run as.

Started as root, each gets a user of its own, so that a taken-over edge can neither signal nor trace guard: the one that
the configuration names, else a system user `unlatch-ROLE`, else a number that nobody has. Started by anybody else, all
run as that user, and `status` says that this is weaker.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from unlatch.errors import ConfigError

ROLES = ("guard", "edge", "egress")
# Where systemd takes the numbers of its dynamic users from (systemd.exec(5), DynamicUser=): no distribution's
# accounts lie there.
FREE_NUMBERS = range(61184, 65520)


@dataclass(frozen=True, slots=True)
class Identity:
    """Numbers of a user and of its group; no supplementary groups."""

    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


def choose(
    named: Mapping[str, str | int | None],
    *,
    is_root: bool,
    find: Callable[[str], Identity | None],
    taken: Callable[[int], bool],
) -> dict[str, Identity]:
    """One identity for each role; nothing where this process is not root.

    Args:
        named: what the configuration says, a name or number for a role.
        find: the identity of a system user.
        taken: whether a number belongs to a user, group or running process.

    Raises:
        ConfigError: a name is unknown, a user is root, or two roles share one.
    """
    if not is_root:
        if any(value is not None for value in named.values()):
            raise ConfigError(
                "users can be changed by root only", hint="start unlatch as root, or leave users out"
            )
        return {}
    chosen: dict[str, Identity] = {}
    for role in ROLES:
        wanted = named.get(role)
        if isinstance(wanted, int):
            chosen[role] = Identity(wanted, wanted)
        elif wanted is not None:
            found = find(wanted)
            if found is None:
                raise ConfigError(
                    f"users.{role}: there is no user {wanted!r}", hint=f"useradd --system {wanted}"
                )
            chosen[role] = found
        else:
            chosen[role] = find(f"unlatch-{role}") or _free(taken, {one.uid for one in chosen.values()})
    _check(chosen)
    return chosen


def choose_for_this_host(named: Mapping[str, str | int | None]) -> dict[str, Identity]:
    """`choose` with this host's users and processes."""
    return choose(named, is_root=os.geteuid() == 0, find=_find, taken=_is_taken)


def _free(taken: Callable[[int], bool], chosen: Collection[int]) -> Identity:
    for number in FREE_NUMBERS:
        if number not in chosen and not taken(number):
            return Identity(number, number)
    raise ConfigError("no user number is free", hint="name users in the configuration")


def _check(chosen: Mapping[str, Identity]) -> None:
    for role, one in chosen.items():
        if one.uid == 0:
            raise ConfigError(f"users.{role} is root", hint="give each role a user without rights")
    if len({one.uid for one in chosen.values()}) != len(chosen):
        raise ConfigError("two of guard, edge and egress have the same user", hint="give each its own")


def _find(name: str) -> Identity | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Identity(entry.pw_uid, entry.pw_gid)


def _is_taken(number: int) -> bool:
    for look in (pwd.getpwuid, grp.getgrgid):
        try:
            look(number)
        except KeyError:
            continue
        return True
    return any(_owner(entry) == number for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _owner(process: Path) -> int | None:
    try:
        return process.stat().st_uid
    except OSError:  # it ended meanwhile
        return None
