"""unlatch hsm: keys in PKCS#11 tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlatch.errors import UnlatchError

if TYPE_CHECKING:
    from unlatch.memguard.custodian.uri import TokenUri

FAILURES, WARNINGS = 22, 23
OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
FORCE = click.option("--force", is_flag=True, help="Overwrite an existing file.")


@click.group(name="hsm")
def command() -> None:
    """Keys in PKCS#11 tokens: list, check, make, request certificates.

    A key is named by its URI (RFC 7512): pkcs11:token=prod;object=site;type=private?module-path=/usr/lib/….so. Without
    module-path, UNLATCH_PKCS11_MODULE or p11-kit's proxy is used. The PIN is asked for, or read from the file in
    UNLATCH_PKCS11_PIN_FILE.
    """


@command.command("list")
@click.argument("uri", default="pkcs11:")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
@click.option("--login", is_flag=True, help="Give the PIN, to see private keys too.")
def list_command(uri: str, as_json: bool, login: bool) -> None:
    """List tokens and their keys, with the URIs that name them."""
    from unlatch.bootstrap.pins import pin_sources
    from unlatch.memguard.custodian import stock
    from unlatch.memguard.custodian.uri import TokenUri

    source = pin_sources.interactive if login else None
    tokens = stock.tokens(TokenUri.parse(uri), pin_source=source)
    if as_json:
        click.echo(json.dumps(tokens, indent=2, ensure_ascii=False))
        return
    for token in tokens:
        click.echo(f"{token['label']}  ({token['manufacturer']} {token['model']}, serial {token['serial']})")
        for flag in token["warnings"]:
            click.echo(f"  warning: {flag}")
        for key in token["keys"]:
            click.echo(f"  {key['kind']:<8} {key['algorithm']:<12} {key['uri']}")
    if not tokens:
        click.echo("no token", err=True)


@command.command()
@click.argument("uri")
@click.pass_context
def check(context: click.Context, uri: str) -> None:
    """Check one key from its URI to a signature, and say what is wrong.

    Exit codes: 0 well, 22 it does not work, 23 it works, with warnings.
    """
    from unlatch.bootstrap.pins import pin_sources
    from unlatch.memguard.custodian import workbench
    from unlatch.memguard.custodian.modules import find_module
    from unlatch.memguard.custodian.signatures import WrongSignatureError
    from unlatch.memguard.custodian.uri import TokenUri, lint

    advice = lint(uri)
    for line in advice:
        click.echo(f"warning  {line}")
    try:
        parsed = TokenUri.parse(uri)
        click.echo(f"ok       module {find_module(parsed)}")
        with workbench.in_token(parsed, pin_source=pin_sources.interactive) as found:
            click.echo(f"ok       key {found.key.algorithm}, its public half is known")
            found.try_out()
            click.echo(
                f"ok       signs TLS schemes {', '.join(f'{scheme:#06x}' for scheme in found.key.schemes)}"
            )
    except WrongSignatureError:
        click.echo("failed   the token's signature is wrong: do not use this key")
        context.exit(FAILURES)
    except UnlatchError as error:
        click.echo(f"failed   {error}")
        if error.hint:
            click.echo(f"hint     {error.hint}")
        context.exit(FAILURES)
    context.exit(WARNINGS if advice else 0)


@command.command("make-key")
@click.argument("uri")
@click.option(
    "--kind", default="ecdsa-p256", show_default=True, help="ecdsa-p256, ecdsa-p384, ed25519, rsa-2048, …"
)
def make_key(uri: str, kind: str) -> None:
    """Make a key that never leaves its token.

    Example: unlatch hsm make-key 'pkcs11:token=prod;object=site;type=private'
    """
    from unlatch.bootstrap.pins import pin_sources
    from unlatch.memguard.custodian import workbench

    parsed = _parsed(uri)
    workbench.make_in_token(parsed, kind, pin_source=pin_sources.interactive)
    click.echo(parsed.public_text)
    click.echo("next: unlatch hsm csr URI --names HOST --out FILE, and key: URI in unlatch.yaml", err=True)


@command.command()
@click.argument("uri")
@click.option("--names", required=True, metavar="A,B", help="Hosts that the certificate shall hold.")
@OUT
@FORCE
def csr(uri: str, names: str, out: Path, force: bool) -> None:
    """Write a certificate request for a key in a token. The token signs it; guard has no part in this."""
    from unlatch.bootstrap.pins import pin_sources
    from unlatch.memguard.custodian import workbench

    def make() -> bytes:
        with workbench.in_token(_parsed(uri), pin_source=pin_sources.interactive) as found:
            return found.request(names.split(","))

    _write(out, make, force=force)


@command.command()
@click.argument("uri")
@OUT
@FORCE
def pem(uri: str, out: Path, force: bool) -> None:
    """Write a URI as a PEM file, as OpenSSL's pkcs11-provider, HAProxy and nginx read it. No PIN goes in."""
    from unlatch.memguard.custodian import keyfile

    _write(out, lambda: keyfile.write_uri(_parsed(uri)), force=force)


def _parsed(uri: str) -> TokenUri:
    from unlatch.memguard.custodian.uri import TokenUri, lint

    for line in lint(uri):
        click.echo(f"warning: {line}", err=True)
    return TokenUri.parse(uri)


def _write(out: Path, make: Callable[[], bytes], *, force: bool) -> None:
    from unlatch.bootstrap import files

    files.refuse_existing(out, force=force)
    files.write(out, make(), force=force, mode=files.PUBLIC)
    click.echo(f"wrote {out}", err=True)
