"""unlatch unlock."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="unlock")
@click.option("--reason", help="What the operator reads on the card.")
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    default=Path("/run/unlatch/admin.sock"),
    show_default=True,
)
def command(reason: str | None, path: Path) -> None:
    """Ask again, by hand, after a denial or relock. The waiting line is in the log of `unlatch serve`."""
    from unlatch.proxy.admin import ask

    ask(path, {"do": "unlock", "reason": reason})
    click.echo("asking: the code is in the log of unlatch serve", err=True)
