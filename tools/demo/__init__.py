"""unlatch demo."""

from __future__ import annotations

import click


@click.command(name="demo")
@click.option("--auto", is_flag=True, help="Approve by itself, as it does where there is no terminal.")
@click.option("--break", "attacks", is_flag=True, help="Offer the prepared attacks one by one.")
@click.option("--hsm", is_flag=True, help="Keep the site's key in a token (SoftHSM); its PIN is sealed.")
@click.option("--tpm", is_flag=True, help="This machine's TPM (swtpm) must agree too.")
@click.pass_context
def command(context: click.Context, auto: bool, attacks: bool, hsm: bool, tpm: bool) -> None:
    """Show the whole product on this machine: seal, ask, approve, serve, and attacks that fail.

    Everything runs on loopback in a temporary folder and is gone afterwards. Exit code 0 only if everything held.
    With --hsm and --tpm, software stands in for the hardware; both together work too.
    """
    from unlatch.tools.demo.story import tell

    context.exit(tell(auto=auto, step_by_step=attacks, hsm=hsm, tpm=tpm))
