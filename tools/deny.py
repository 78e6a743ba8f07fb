"""unlatch deny."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command(name="deny")
@click.argument("request", metavar="[ID]", required=False)
@click.option("--gate", "name", metavar="NAME|URL", help="A trusted gate.")
@click.option("--key", type=click.Path(path_type=Path), help="Your SSH key: private, or .pub with an agent.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(request: str | None, name: str | None, key: Path | None, as_json: bool) -> None:
    """Deny a request. It closes this request only; the workload may ask again."""
    from unlatch.bootstrap.context import find_context
    from unlatch.errors import RefusedError
    from unlatch.gate.desk import Desk
    from unlatch.gate.http import GateRefusedError
    from unlatch.gate.signing import choose_key

    desk = Desk(find_context(name), key=choose_key(key))
    found = desk.request(desk.choose(request))
    try:
        standing = desk.decide(found, "deny", code=None)
    except GateRefusedError as error:
        raise RefusedError(f"not denied: {error}", hint=f"unlatch show {found.receipt.id}") from error
    click.echo(
        json.dumps(asdict(standing)) if as_json else f"denied {found.receipt.id} of {found.receipt.workload}"
    )
