"""unlatch gate operator."""

from __future__ import annotations

import json
from pathlib import Path

import click

from unlatch.tools.gate.reach import (
    DIR_OPTION,
    FILE,
    GATE_OPTION,
    JSON_OPTION,
    SIGN_OPTION,
    change_roster,
    read_roster,
)


@click.group()
def operator() -> None:
    """Say who may approve."""


@operator.command(name="add")
@click.argument("operator_name", metavar="NAME")
@click.argument("public_key", metavar="SSH.pub", type=FILE)
@click.option("--admin", is_flag=True, help="May enrol others and change policies.")
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
def operator_add(
    operator_name: str, public_key: Path, admin: bool, folder: Path | None, name: str | None, key: Path | None
) -> None:
    """Add an operator, or a second key of one. An administrator signs it."""
    from unlatch.gate.enrolment import AddOperator
    from unlatch.gate.signing import read_public_key

    added = read_public_key(public_key)
    change = AddOperator(name=operator_name, key=str(added), admin=admin)
    change_roster(lambda _: lambda _: change, folder=folder, name=name, key=key)
    click.echo(f"operator {operator_name}, key {added.fingerprint}")


@operator.command(name="suspend")
@click.argument("operator_name", metavar="NAME")
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
def operator_suspend(operator_name: str, folder: Path | None, name: str | None, key: Path | None) -> None:
    """Let an operator's signatures count no more. An administrator signs it."""
    from unlatch.gate.enrolment import Suspend

    change_roster(lambda _: lambda _: Suspend(name=operator_name), folder=folder, name=name, key=key)
    click.echo(f"operator {operator_name} is suspended")


@operator.command(name="list")
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
@JSON_OPTION
def operator_list(folder: Path | None, name: str | None, key: Path | None, as_json: bool) -> None:
    """List the operators and their keys."""
    roster = read_roster(folder=folder, name=name, key=key)
    found = [
        {"name": one.name, "admin": one.is_admin, "suspended": one.is_suspended,
         "keys": [public.fingerprint for public in one.keys]}
        for one in roster.operators.values()
    ]  # fmt: skip
    if as_json:
        click.echo(json.dumps({"operators": found}))
        return
    for facts in found:
        marks = "".join(f" ({word})" for word in ("admin", "suspended") if facts[word])
        click.echo(f"{facts['name']}{marks}: {', '.join(facts['keys'])}")  # type: ignore[arg-type]
