"""unlatch serve."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="serve")
@click.option(
    "-c", "--config", type=click.Path(path_type=Path), required=True, help="The configuration (YAML)."
)
def command(config: Path) -> None:
    """Start locked, ask for approval, and serve TLS once approved.

    The ports are bound at once and refuse connections until the sealed file is open. SIGTERM drains, SIGHUP reloads.
    """
    from unlatch.proxy.service import serve

    serve(config)
