"""unlatch gate workload."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unlatch.tools.gate.reach import (
    DIR_OPTION,
    GATE_OPTION,
    JSON_OPTION,
    SIGN_OPTION,
    approver_names,
    change_roster,
    read_roster,
)

if TYPE_CHECKING:
    from unlatch.gate.enrolment import Change
    from unlatch.gate.roster import Roster


@click.group()
def workload() -> None:
    """Say what opens by whom."""


@workload.command(name="add")
@click.argument("workload_name", metavar="NAME")
@click.option(
    "--approver",
    "approvers",
    required=True,
    multiple=True,
    help="Names or .pub files; again, or with commas.",
)
@click.option(
    "--quorum", type=int, default=1, show_default=True, help="How many different people must approve."
)
@click.option(
    "--clients", type=click.Choice(["native", "stock", "both"]), default="native", show_default=True
)
@click.option("--hold", default="120s", show_default=True, help="How long a stock client's request is held.")
@click.option("--expires", default="10m", show_default=True, help="How long a native request waits.")
@click.option("--new-key", is_flag=True, help="Begin a new epoch: a new key for files sealed from now on.")
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
@JSON_OPTION
def workload_add(
    workload_name: str, approvers: tuple[str, ...], quorum: int, clients: Any, hold: str, expires: str,
    new_key: bool, folder: Path | None, name: str | None, key: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Add a workload, or change its policy. An administrator signs it."""
    from unlatch.gate.enrolment import SetWorkload

    def make(registry: Any) -> Callable[[Roster], Change]:
        def change(roster: Roster) -> Change:
            known = roster.workloads.get(workload_name)
            return SetWorkload(
                name=workload_name,
                kid=known.kid if known and not new_key else registry.new_key(),
                approvers=approver_names(approvers, roster),
                quorum=quorum,
                clients=clients,
                hold=read_seconds(hold),
                expires=read_seconds(expires),
            )

        return change

    roster = change_roster(make, folder=folder, name=name, key=key)
    facts = roster.workloads[workload_name]
    shown = {"workload": workload_name, "kid": facts.kid, "revision": facts.revision}
    click.echo(json.dumps(shown) if as_json else f"workload {workload_name}, key {facts.kid}")


@workload.command(name="list")
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
@JSON_OPTION
def workload_list(folder: Path | None, name: str | None, key: Path | None, as_json: bool) -> None:
    """List the workloads and their policies."""
    from dataclasses import asdict

    roster = read_roster(folder=folder, name=name, key=key)
    if as_json:
        click.echo(json.dumps({"workloads": [asdict(one) for one in roster.workloads.values()]}))
        return
    for one in roster.workloads.values():
        click.echo(
            f"{one.name}: {one.quorum} of {', '.join(one.approvers)}; {one.clients} clients;"
            f" hold {one.hold} s, expires {one.expires} s; key {one.kid}"
        )


def read_seconds(text: str) -> int:
    """Seconds from 90, 90s, 10m or 2h."""
    from unlatch.errors import UsageError

    digits, unit = (text[:-1], text[-1:]) if text[-1:] in ("s", "m", "h") else (text, "s")
    if not digits.isdecimal():
        raise UsageError(f"{text!r} is no duration", hint="90s, 10m or 2h")
    return int(digits) * {"s": 1, "m": 60, "h": 3600}[unit]
