"""unlatch csr."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="csr")
@click.argument("key")
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    default=Path("/run/unlatch/admin.sock"),
    show_default=True,
)
def command(key: str, path: Path) -> None:
    """Get a certificate request (PEM) for a sealed KEY, for the names sealed with it.

    The key stays in guard. Give the request to any CA or ACME client, put the new chain in place of the old one, and
    run unlatch reload.
    """
    from unlatch.proxy.admin import ask

    click.echo(ask(path, {"do": "csr", "key": key.removeprefix("sealed:")}), nl=False)
