"""unlatch check."""

from __future__ import annotations

import json
from pathlib import Path

import click

from unlatch.errors import UsageError


@click.command(name="check")
@click.option("-c", "--config", "path", type=click.Path(path_type=Path), help="The configuration to check.")
@click.option("--schema", is_flag=True, help="Print the configuration's JSON Schema, for editors.")
def command(path: Path | None, schema: bool) -> None:
    """Check a configuration and every file that it names, without asking anyone.

    What lies inside the sealed file cannot be checked here: guard does that at start.
    """
    if schema:
        from unlatch.proxy.config import Config

        click.echo(json.dumps(Config.model_json_schema(), indent=1))
        return
    if path is None:
        raise UsageError("say what to check: unlatch check -c FILE")
    from unlatch.proxy.checking import check

    for line in check(path):
        click.echo(line)
