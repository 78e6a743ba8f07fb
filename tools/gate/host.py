"""unlatch gate host."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlatch.tools.gate.reach import (
    DIR_OPTION,
    FILE,
    GATE_OPTION,
    JSON_OPTION,
    SIGN_OPTION,
    change_roster,
    read_roster,
)

if TYPE_CHECKING:
    from unlatch.bootstrap.identity.proof import PublicLine


@click.group()
def host() -> None:
    """Say which machines' keys have a name. A host's key opens nothing: people approve."""


@host.command(name="add")
@click.argument("host_name", metavar="NAME")
@click.argument("public_key", metavar="KEY.pub", type=FILE)
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
def host_add(
    host_name: str, public_key: Path, folder: Path | None, name: str | None, key: Path | None
) -> None:
    """Give a host's key a name, or a host a new key. An administrator signs it.

    KEY.pub is what `unlatch host enroll` wrote on that host. That a key lies in a TPM is your word for it: compare the
    thumbprint with what the host's own console shows.
    """
    from unlatch.gate.enrolment import AddHost

    line = read_line(public_key)
    change = AddHost(name=host_name, key=str(line.key), protection=line.protection)
    change_roster(lambda _: lambda _: change, folder=folder, name=name, key=key)
    kind = "TPM key" if line.protection == "tpm" else "file key, copyable"
    click.echo(f"host {host_name}, {kind} {line.key.thumbprint}")


@host.command(name="suspend")
@click.argument("host_name", metavar="NAME")
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
def host_suspend(host_name: str, folder: Path | None, name: str | None, key: Path | None) -> None:
    """Let a host's key count no more; requests signed with it are refused. An administrator signs it."""
    from unlatch.gate.enrolment import SuspendHost

    change_roster(lambda _: lambda _: SuspendHost(name=host_name), folder=folder, name=name, key=key)
    click.echo(f"host {host_name} is suspended")


@host.command(name="list")
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
@JSON_OPTION
def host_list(folder: Path | None, name: str | None, key: Path | None, as_json: bool) -> None:
    """List the hosts and their keys."""
    hosts = list(read_roster(folder=folder, name=name, key=key).hosts.values())
    if as_json:
        click.echo(json.dumps({"hosts": [asdict(one) for one in hosts]}))
        return
    for one in hosts:
        mark = " (suspended)" if one.is_suspended else ""
        click.echo(f"{one.name}{mark}: {'TPM' if one.protection == 'tpm' else 'file'} key {one.key}")


def read_line(path: Path) -> PublicLine:
    """A host's public key as `unlatch host enroll` wrote it.

    Raises:
        ConfigError: the file holds none.
    """
    from unlatch.bootstrap.identity.proof import ProofError, PublicLine
    from unlatch.errors import ConfigError

    try:
        return PublicLine.parse(path.read_text(encoding="ascii"))
    except (OSError, ValueError, ProofError) as error:
        raise ConfigError(
            f"{path} is no host's public key: {error}", hint="unlatch host enroll makes one"
        ) from error
