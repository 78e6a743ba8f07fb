"""unlatch check."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="check")
@click.option(
    "-c", "--config", type=click.Path(path_type=Path), required=True, help="The configuration (YAML)."
)
def command(config: Path) -> None:
    """Check a configuration and every file that it names, without asking anyone.

    What lies inside the sealed file cannot be checked here: guard does that at start.
    """
    from unlatch.proxy.checking import check

    for line in check(config):
        click.echo(line)
