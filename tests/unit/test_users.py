"""Who guard, edge and egress run as."""

from __future__ import annotations

import pytest

from unlatch.errors import ConfigError
from unlatch.proxy.users import FREE_NUMBERS, Identity, choose

FIRST = FREE_NUMBERS.start


def nobody(name: str) -> Identity | None:
    del name
    return None


def test_roles_without_system_users_get_free_numbers_of_their_own() -> None:
    chosen = choose({}, is_root=True, find=nobody, taken=lambda number: number == FIRST)

    assert [one.uid for one in chosen.values()] == [FIRST + 1, FIRST + 2, FIRST + 3]


def test_system_users_come_before_numbers_and_the_configuration_before_both() -> None:
    system = {
        "unlatch-guard": Identity(901, 901),
        "unlatch-edge": Identity(902, 950),
        "web": Identity(33, 33),
    }

    chosen = choose({"edge": "web", "egress": 4711}, is_root=True, find=system.get, taken=lambda _: False)

    assert chosen == {"guard": Identity(901, 901), "edge": Identity(33, 33), "egress": Identity(4711, 4711)}


def test_another_user_than_root_changes_nothing() -> None:
    assert choose({"guard": None}, is_root=False, find=nobody, taken=lambda _: False) == {}


@pytest.mark.parametrize(
    ("named", "is_root", "message"),
    [
        ({"guard": "nobody-such"}, True, "no user 'nobody-such'"),
        ({"guard": 0}, True, "is root"),
        ({"guard": 7, "edge": 7}, True, "the same user"),
        ({"guard": 7}, False, "by root only"),
    ],
)
def test_wrong_users_are_refused(named: dict[str, str | int | None], is_root: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(named, is_root=is_root, find=nobody, taken=lambda _: False)
