"""unlatch gate protect, and the options that it shares with `unlatch gate init`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unlatch.tools.gate.reach import FILE, FOLDER

if TYPE_CHECKING:
    from unlatch.gate.master import Protector

Command = TypeVar("Command", bound=Callable[..., Any])
KINDS = "file | tpm2 | pkcs11:URI | systemd-credential"
MAX_KEY_BYTES = 64 * 1024


def protecting(command: Command) -> Command:
    """Add the options that `read_protector` reads."""
    options = (
        click.option("--protect", metavar=KINDS, help="What protects the gate's master key."),
        click.option("--pcrs", metavar="[BANK:]7,11", help="With tpm2: only while these PCRs stay as they are now."),
        click.option(
            "--recovery", type=FILE, metavar="FILE.pub", help="With tpm2 and pkcs11: an offline key that opens it too."
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def read_protector(protect: str, *, pcrs: str | None, recovery: Path | None) -> Protector:
    """The protector that a command line names.

    Raises:
        UsageError: there is none of this name, or options that do not go with it.
    """
    from unlatch.bootstrap.hardware_rules import token_rule, tpm_rule
    from unlatch.bootstrap.policy import Pkcs11Rule, Tpm2Rule
    from unlatch.bootstrap.seal import read_recovery_key
    from unlatch.errors import UsageError
    from unlatch.gate.master import Protector

    key = read_recovery_key(_read(recovery)) if recovery is not None else None
    if pcrs is not None and protect != "tpm2":
        raise UsageError("--pcrs goes with --protect tpm2")
    if protect == "tpm2":
        (rule,) = tpm_rule(wanted=True, pcrs=pcrs, policy_key=None, reference="")
        assert isinstance(rule, Tpm2Rule)
        return Protector("tpm2", rule, key)
    if protect.startswith("pkcs11:"):
        (token,) = token_rule(protect)
        assert isinstance(token, Pkcs11Rule)
        return Protector("pkcs11", token, key)
    if protect in ("file", "systemd-credential"):
        return Protector("file" if protect == "file" else "systemd-credential", None, key)
    raise UsageError(f"--protect {protect}: expected {KINDS}")


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@protecting
@click.option(
    "--recovery-key", type=FILE, help="Open the present one with the offline key: the hardware is lost."
)
def protect(
    folder: Path, protect: str | None, pcrs: str | None, recovery: Path | None, recovery_key: Path | None
) -> None:
    """Show what protects a gate's master key, or change it while the gate is stopped.

    A change makes a new master key, so that a copy of the old one opens nothing that is made from here on. It still opens
    older copies of the folder: destroy those.
    """
    from unlatch.bootstrap import files
    from unlatch.bootstrap.pins.hardware import Hardware
    from unlatch.errors import UsageError
    from unlatch.gate.admin import check_folder
    from unlatch.gate.keyholder_main import lock_folder
    from unlatch.gate.master import describe, open_master
    from unlatch.gate.rewrap import change_protector

    check_folder(folder)
    keyholder = folder / "keyholder"
    if protect is None:
        if pcrs or recovery or recovery_key:
            raise UsageError("nothing is changed without --protect", hint=f"--protect {KINDS}")
        click.echo(describe(keyholder))
        return
    chosen = read_protector(protect, pcrs=pcrs, recovery=recovery)
    offline = files.read_secret(recovery_key, MAX_KEY_BYTES) if recovery_key is not None else None
    lock = lock_folder(keyholder)
    try:
        old = open_master(keyholder, may_prompt=True, recovery_key=offline, is_service=False)
        change_protector(keyholder, old, chosen, hardware=Hardware(may_prompt=True))
    finally:
        os.close(lock)
    click.echo(describe(keyholder))
    warn(chosen)


def warn(protector: Protector) -> None:
    """Say what an administrator must know of a protector."""
    if protector.rule is not None and protector.recovery is None:
        click.echo(
            "warning: when this hardware is lost, no file of this gate opens again. Give --recovery FILE.pub"
            " (unlatch recovery init), or have a second gate",
            err=True,
        )
    if protector.kind == "systemd-credential":
        click.echo("The unit of the gate must hand it over: the line above, under [Service]", err=True)


def _read(path: Path) -> bytes:
    from unlatch.errors import ConfigError

    try:
        return path.read_bytes()[:MAX_KEY_BYTES]
    except OSError as error:
        raise ConfigError(f"cannot read: {error.strerror}, {path}") from error
