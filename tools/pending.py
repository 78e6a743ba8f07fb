"""unlatch pending."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import click


@click.command(name="pending")
@click.option("--gate", "name", metavar="NAME|URL", help="A trusted gate.")
@click.option("--key", type=click.Path(path_type=Path), help="Your SSH key: private, or .pub with an agent.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, key: Path | None, as_json: bool) -> None:
    """List the requests that wait for approval.

    The first look signs in with your SSH key; the session lasts eight hours and can only read.
    """
    from unlatch.bootstrap.context import find_context
    from unlatch.gate.desk import Desk
    from unlatch.gate.show import summary_line
    from unlatch.gate.signing import choose_key

    found = Desk(find_context(name), key=choose_key(key)).pending()
    if as_json:
        click.echo(json.dumps({"requests": [asdict(one) for one in found]}))
        return
    for one in found:
        click.echo(summary_line(one, now=time.time()))
    if not found:
        click.echo("nothing waits", err=True)
