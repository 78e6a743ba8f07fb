"""unlatch audit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from unlatch.gate.audit import Report


@click.group(name="audit")
def command() -> None:
    """Verify a gate's audit log with public keys alone."""


@command.command()
@click.option("--gate", "name", metavar="NAME|URL", help="A trusted gate.")
@click.option("--key", type=click.Path(path_type=Path), help="Your SSH key: private, or .pub with an agent.")
def export(name: str | None, key: Path | None) -> None:
    """Print the whole log: a head with a checkpoint, then one entry a line."""
    from unlatch.bootstrap.context import find_context
    from unlatch.gate.desk import Desk
    from unlatch.gate.signing import choose_key

    for line in Desk(find_context(name), key=choose_key(key)).audit():
        sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


@command.command()
@click.argument(
    "file", metavar="[FILE]", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), required=False
)
@click.option(
    "--genesis", metavar="FINGERPRINT", help="As `gate init` printed it. Default: the trusted gate's."
)
@click.option("--gate", "name", metavar="NAME|URL", help="A trusted gate to fetch the log from.")
@click.option("--key", type=click.Path(path_type=Path), help="Your SSH key, for fetching.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(file: Path | None, genesis: str | None, name: str | None, key: Path | None, as_json: bool) -> None:
    """Verify every entry: tree, checkpoint, enrolments back to the genesis, each decision's signature and quorum.

    From a gate, the log must also extend what this machine saw last.
    """
    from unlatch.errors import UsageError
    from unlatch.gate.audit import verify_log

    if file is not None:
        if genesis is None:
            raise UsageError("whose log is it? --genesis FINGERPRINT", hint="`gate init` printed it")
        with click.open_file(str(file), "rb") as lines:
            report = verify_log(lines, fingerprint=genesis)
    else:
        report = verify_from_gate(name, key, genesis)
    counts = {
        "entries": report.checkpoint.size, "enrolments": report.enrolments, "requests": report.requests,
        "approvals": report.approvals, "denials": report.denials, "answered": report.answered,
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps({"genesis": report.fingerprint, "origin": report.checkpoint.origin, **counts}))
        return
    click.echo("the log holds: " + ", ".join(f"{count} {what}" for what, count in counts.items()))


def verify_from_gate(name: str | None, key: Path | None, genesis: str | None) -> Report:
    """Fetch, verify, compare with what was seen last, and remember."""
    from unlatch.bootstrap.context import find_context
    from unlatch.errors import UsageError
    from unlatch.gate.audit import check_extends, verify_log
    from unlatch.gate.desk import Desk
    from unlatch.gate.signing import choose_key

    context = find_context(name)
    fingerprint = genesis or context.genesis
    if fingerprint is None:
        raise UsageError(
            "this gate's genesis is not known", hint="--genesis FINGERPRINT, as `gate init` printed it"
        )
    desk = Desk(context, key=choose_key(key))
    size, root = desk.seen()
    report = verify_log(desk.audit(), fingerprint=fingerprint)
    check_extends(report, size=size, root=root)
    desk.remember(report.note)
    return report
