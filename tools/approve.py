"""unlatch approve."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from unlatch.gate.desk import Desk, Standing, VerifiedRequest


@click.command(name="approve")
@click.argument("request", metavar="[ID]", required=False)
@click.option("--code", help="The code that the asking console shows. Asked for, if not given.")
@click.option("--gate", "name", metavar="NAME|URL", help="A trusted gate.")
@click.option("--key", type=click.Path(path_type=Path), help="Your SSH key: private, or .pub with an agent.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(request: str | None, code: str | None, name: str | None, key: Path | None, as_json: bool) -> None:
    """Approve a request with your SSH key.

    Everything is verified against the gate that you trusted before anything is signed. Read the code on a console that
    you opened yourself; if you did not start this workload just now, deny.
    """
    from unlatch.bootstrap.context import find_context
    from unlatch.gate.desk import Desk
    from unlatch.gate.show import card
    from unlatch.gate.signing import choose_key

    desk = Desk(find_context(name), key=choose_key(key))
    found = desk.request(desk.choose(request))
    if not as_json:
        click.echo(card(found, now=time.time()), err=True)
    typed = read_code_or_name(code, client=found.receipt.client, workload=found.receipt.workload)
    standing = decide(desk, found, typed)
    if as_json:
        click.echo(json.dumps(asdict(standing)))
        return
    left = standing.needed - len(standing.approvals)
    rest = f"{left} more needed" if left > 0 else "it opens"
    click.echo(f"approved {found.receipt.id} of {found.receipt.workload}: {rest}")


def read_code_or_name(given: str | None, *, client: str, workload: str) -> str | None:
    """The typed code; for stock clients, which can show none, the workload's name takes its place."""
    from unlatch.bootstrap.approval.code import read_code
    from unlatch.errors import UsageError

    if client == "stock":
        typed = given if given is not None else ask(f"no code was possible. Type {workload} to approve")
        if typed.strip() != workload:
            raise UsageError(
                f"the name typed is not {workload}",
                hint="for a stock client --code takes the workload's name",
            )
        return None
    try:
        return read_code(given if given is not None else ask("code that the asking console shows"))
    except ValueError as error:
        raise UsageError(str(error)) from error


def ask(question: str) -> str:
    """Ask on the terminal."""
    from unlatch.errors import UsageError

    if not sys.stdin.isatty():
        raise UsageError("no terminal to ask for the code on", hint="--code XXXX-XXXX")
    return str(click.prompt(question, err=True))


def decide(desk: Desk, found: VerifiedRequest, code: str | None) -> Standing:
    """Hand in the approval; says what a refusal means."""
    from unlatch.errors import RefusedError
    from unlatch.gate.http import GateRefusedError

    try:
        return desk.decide(found, "approve", code=code)
    except GateRefusedError as error:
        if error.kind == "code":
            raise RefusedError(
                f"that is not the code of request {found.receipt.id}",
                hint="read it again on the console you opened; if it shows another code, somebody else asks too: deny",
            ) from error
        raise RefusedError(f"not approved: {error}", hint=f"unlatch show {found.receipt.id}") from error
