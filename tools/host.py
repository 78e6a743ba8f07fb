"""unlatch host: the key by which a gate knows this machine."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from unlatch.bootstrap.identity.keys import HostSigner

KINDS = {
    "tpm": "in the TPM: nobody can copy it",
    "file": "copyable: whoever has the file is this host",
}
PATH = click.Path(path_type=Path, dir_okay=False)


@click.group(name="host")
def command() -> None:
    """The key by which a gate knows this machine: in its TPM, or in a file.

    It says who asks. It opens nothing, and people approve as before.
    """


@command.command()
@click.option("--tpm", "in_tpm", is_flag=True, help="Make it in the TPM, or fail.")
@click.option(
    "--file", "file", type=PATH, metavar="PATH", help="Keep it in a file, although it can be copied."
)
@click.option(
    "--out", type=PATH, help="Where the TPM key's file goes. Default: /etc/unlatch/host.key for root."
)
@click.option("--name", help="What the gate shall call this host. Default: its own name.")
@click.option("--gate", metavar="NAME|URL", help="For the line that an administrator runs.")
@click.option("--force", is_flag=True, help="Overwrite a key: gates will not know this host any more.")
def enroll(
    in_tpm: bool, file: Path | None, out: Path | None, name: str | None, gate: str | None, force: bool
) -> None:
    """Make this host's key, in the TPM where there is one, and print its public half.

    What an administrator runs then is said on standard error.
    """
    from unlatch.bootstrap import files
    from unlatch.bootstrap.identity import keys
    from unlatch.errors import UsageError
    from unlatch.memguard.custodian.tss import is_present

    if file is not None and (in_tpm or out is not None):
        raise UsageError(
            "--file goes with neither --tpm nor --out", hint="--file PATH, or --tpm [--out PATH]"
        )
    path = file or out or keys.usual_file()
    if file is None and (in_tpm or is_present()):
        signer = keys.make_in_tpm(path, force=force)
    else:
        signer = keys.make_in_file(path, force=force)
    public = path.with_name(f"{path.name}.pub")
    line = public_line(signer)
    files.write(public, f"{line}\n".encode(), force=True, mode=files.PUBLIC)
    click.echo(line)
    called = name or host_name()
    click.echo(
        f"""wrote {path} ({KINDS[signer.protection]}) and {public}
thumbprint {signer.public.thumbprint}
An administrator enrols it with the second file, and compares the thumbprint:
  unlatch gate host add {called} {public.name} --gate {gate or "NAME"} --sign-with KEY
and takes it back with:
  unlatch gate host suspend {called} --gate {gate or "NAME"} --sign-with KEY""",
        err=True,
    )
    if file is None and path != keys.usual_file():
        click.echo(f"This is not where it is looked for: set {keys.VARIABLE}={path.absolute()}", err=True)


@command.command()
@click.argument("file", type=PATH, required=False)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def show(file: Path | None, as_json: bool) -> None:
    """Show this host's key as gates see it, and whether it could be copied."""
    from unlatch.bootstrap.identity import keys
    from unlatch.errors import ConfigError

    path = file or keys.find()
    if path is None:
        raise ConfigError(
            "this host has no key, or you may not read it", hint="unlatch host enroll makes one"
        )
    signer = keys.load(path)
    if as_json:
        facts = {
            "file": str(path), "protection": signer.protection, "copyable": signer.protection == "file",
            "thumbprint": signer.public.thumbprint, "public": public_line(signer),
        }  # fmt: skip
        click.echo(json.dumps(facts))
        return
    click.echo(public_line(signer))
    click.echo(f"{path}: {KINDS[signer.protection]}\nthumbprint {signer.public.thumbprint}", err=True)


def public_line(signer: HostSigner) -> str:
    """The line that `unlatch gate host add` reads."""
    from unlatch.bootstrap.identity.proof import PublicLine

    return str(PublicLine(signer.protection, signer.public, host_name()))


def host_name() -> str:
    """This host's own name, as a gate takes names."""
    name = re.sub(r"[^a-z0-9._-]", "-", socket.gethostname().lower()).strip("._-")[:64]
    return name or "host"
