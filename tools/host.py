"""unlatch host: the key by which a gate knows this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

DEFAULT = Path("/etc/unlatch/host.key")
COPYABLE = "a key in a file: whoever copies the file is this host"


@click.group(name="host")
def command() -> None:
    """The key by which a gate knows this machine: in its TPM, or in a file."""


@command.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=DEFAULT, show_default=True, help="The key's file."
)
@click.option("--file", "in_file", is_flag=True, help="Keep the key in the file, although it can be copied.")
@click.option(
    "--force", is_flag=True, help="Overwrite an existing file: the gate will not know this host any more."
)
def enroll(out: Path, in_file: bool, force: bool) -> None:
    """Make this host's key, in the TPM where there is one, and print what an operator enrols at the gate."""
    from unlatch.bootstrap import identity
    from unlatch.memguard.custodian.tss import is_present

    in_tpm = not in_file and is_present()
    made = identity.create(out, in_tpm=in_tpm, force=force)
    click.echo(identity.fingerprint(made.spki))
    if made.kind == "file":
        reason = "" if in_file else "no TPM here; "
        click.echo(f"warning: {reason}{COPYABLE}", err=True)
    click.echo(f"wrote {out}; tell the gate's administrator the fingerprint above", err=True)


@command.command()
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def show(file: Path, as_json: bool) -> None:
    """Show this host's fingerprint, and whether its key could be copied."""
    from unlatch.bootstrap import identity, jose

    found = identity.load(file)
    facts = {
        "kind": found.kind,
        "fingerprint": identity.fingerprint(found.spki),
        "key": jose.encode(found.spki),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(facts["fingerprint"])
    click.echo("in the TPM" if found.kind == "tpm" else COPYABLE, err=True)
