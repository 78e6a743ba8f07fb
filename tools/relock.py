"""unlatch relock."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="relock")
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    default=Path("/run/unlatch/admin.sock"),
    show_default=True,
)
def command(path: Path) -> None:
    """Wipe every secret and close the door.

    Connections end at once. Nobody is asked until `unlatch unlock`. A lock is no revocation: who was root on this host
    while it served may hold the secrets, so rotate them after a break-in.
    """
    from unlatch.proxy.admin import ask

    ask(path, {"do": "relock"})
