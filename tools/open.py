"""unlatch open: opens a sealed file and writes one secret out."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unlatch.errors import UsageError

if TYPE_CHECKING:
    from unlatch.memguard._native import Secret

STDOUT = 1
Command = TypeVar("Command", bound=Callable[..., Any])


def asking(command: Command) -> Command:
    """Add the options of every command that opens a file by hand; they are arguments of `open_by_hand`."""
    options = (
        click.option(
            "--timeout",
            type=float,
            metavar="SECONDS",
            help="How long to wait for people (default: as the gate says).",
        ),
        click.option(
            "--recovery-key",
            type=click.Path(path_type=Path),
            help="Open with the offline key; asks no gate and no person.",
        ),
        click.option("--reason", help="Why you ask: shown to the people who decide."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(name="open")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--secret", "name", help="Which secret of a bundle; needless when it holds one.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write to a file (0600) instead of standard output."
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@asking
@click.option(
    "--no-wait", is_flag=True, help="Ask, then end with exit code 12 instead of waiting for a person."
)
def command(file: Path, name: str | None, out: Path | None, force: bool, **how: Any) -> None:
    """Open a sealed file and write one secret out.

    A private key is never printed on a terminal. Example: unlatch open pay.jwe --secret tls --out tls.pem
    """
    from unlatch.bootstrap import files
    from unlatch.bootstrap.opening import open_by_hand

    sealed = files.read_sealed(file)
    if out is not None:
        files.refuse_existing(out, force=force)
    if name is not None and not sealed.is_bundle:
        raise UsageError("this file is no bundle: it holds one secret", hint="leave --secret out")
    opened = open_by_hand(file, sealed, **how)
    secret = opened.secret(name or _only(opened.names))
    if out is not None:
        files.write_secret(out, secret, force=force)
        return
    _refuse_terminal(secret)
    sys.stdout.flush()
    secret.write_fd(STDOUT)


def _only(names: tuple[str, ...]) -> str:
    if len(names) != 1:
        raise UsageError(f"the bundle holds {', '.join(names)}", hint="choose one with --secret NAME")
    return names[0]


def _refuse_terminal(secret: Secret) -> None:
    if not os.isatty(STDOUT):
        return
    with secret.expose() as view:
        is_key = re.search(rb"PRIVATE KEY", view) is not None
    if is_key:
        raise UsageError(
            "a private key is never printed on a terminal", hint="write it with --out FILE, or into a pipe"
        )
