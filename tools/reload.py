"""unlatch reload."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="reload")
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    default=Path("/run/unlatch/admin.sock"),
    show_default=True,
)
def command(path: Path) -> None:
    """Take over new certificates, routes and upstreams.

    A configuration that is wider than the sealed rules, or wrong, is refused and the old one stays in force.
    """
    from unlatch.proxy.admin import ask

    for line in ask(path, {"do": "reload"}):
        click.echo(line)
