"""How a command of `unlatch gate` reaches a gate: by its folder, on its own machine, or by its name, from anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from unlatch.gate.enrolment import Change
    from unlatch.gate.roster import Roster

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
DIR_OPTION = click.option(
    "--dir", "folder", type=FOLDER, envvar="UNLATCH_GATE_DIR", help="The gate's folder, on its own machine."
)
GATE_OPTION = click.option("--gate", "name", metavar="NAME|URL", help="A trusted gate, from anywhere.")
SIGN_OPTION = click.option(
    "--sign-with", "key", type=FILE, help="An administrator's SSH key: private, or .pub with an agent."
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def change_roster(
    make: Callable[[Any], Callable[[Roster], Change]],
    *,
    folder: Path | None,
    name: str | None,
    key: Path | None,
) -> Roster:
    """Sign a change and hand it in: to a stopped gate's folder, or to a running gate."""
    from unlatch.gate.admin import enrol, running_gate, with_stopped_gate
    from unlatch.gate.signing import choose_key

    chosen = choose_key(key)
    if folder is not None and name is None and running_gate(folder) is None:
        return with_stopped_gate(folder, lambda registry: enrol(registry, make(registry), key=chosen))
    desk = open_desk(folder=folder, name=name, key=chosen)
    return enrol(desk, make(desk), key=chosen)


def read_roster(*, folder: Path | None, name: str | None, key: Path | None) -> Roster:
    """The roster from a gate's folder, or from a running gate (which asks for an operator's signature)."""
    from unlatch.gate.admin import read_links
    from unlatch.gate.roster import Roster
    from unlatch.gate.signing import choose_key

    if folder is not None and name is None:
        return Roster.fold(read_links(folder))
    return Roster.fold(open_desk(folder=None, name=name, key=choose_key(key)).links())


def open_desk(*, folder: Path | None, name: str | None, key: Path) -> Any:
    """The operator's side of a running gate: by its context, or by its own folder, which pins it as well."""
    from unlatch.bootstrap.context import Context, find_context
    from unlatch.gate.admin import read_links, running_gate
    from unlatch.gate.desk import Desk
    from unlatch.gate.http import GateHttp
    from unlatch.gate.roster import Roster

    if folder is None or name is not None:
        return Desk(find_context(name), key=key)
    people = str(running_gate(folder))
    pinned = Roster.fold(read_links(folder)).genesis.gate
    context = Context.from_advertisement(
        GateHttp(people).raw("/adv"), name="local", url=people, thumbprint=pinned
    )
    return Desk(context, key=key, keep_session=False)


def approver_names(given: tuple[str, ...], roster: Roster) -> tuple[str, ...]:
    """Names of operators from names and .pub files."""
    from unlatch.errors import ConfigError
    from unlatch.gate.signing import read_public_key

    names = []
    for text in (piece.strip() for one in given for piece in one.split(",")):
        if text.endswith(".pub"):
            owner = roster.find_key(read_public_key(Path(text)))
            if owner is None:
                raise ConfigError(
                    f"{text} is no operator's key", hint=f"unlatch gate operator add NAME {text}"
                )
            names.append(owner.name)
        elif text in roster.operators:
            names.append(text)
        else:
            raise ConfigError(
                f"no operator is called {text!r}", hint=f"unlatch gate operator add {text} KEY.pub"
            )
    return tuple(dict.fromkeys(names))
