"""unlatch gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from unlatch.tools.gate.host import host
from unlatch.tools.gate.operator import operator
from unlatch.tools.gate.protect import protect as protect_command
from unlatch.tools.gate.protect import protecting, read_protector, warn
from unlatch.tools.gate.reach import FILE, FOLDER, JSON_OPTION
from unlatch.tools.gate.workload import workload


@click.group(name="gate")
def command() -> None:
    """Run and manage an approving Tang server."""


@command.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--admin-key", type=FILE, required=True, help="The first administrator's SSH public key.")
@click.option("--admin-name", help="His name. Default: the key's comment, up to an @.")
@protecting
@JSON_OPTION
def init(
    folder: Path, admin_key: Path, admin_name: str | None, protect: str | None, pcrs: str | None,
    recovery: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a new gate: its keys, its first administrator, its audit log."""
    import time

    from unlatch.bootstrap.pins.hardware import Hardware
    from unlatch.gate.found import found_gate
    from unlatch.gate.signing import read_public_key

    key = read_public_key(admin_key)
    name = admin_name or name_from_comment(admin_key)
    protector = read_protector(protect or "file", pcrs=pcrs, recovery=recovery)
    hardware = Hardware(may_prompt=True)
    founded = found_gate(folder, admin=name, key=key, now=time.time(), protector=protector, hardware=hardware)
    warn(protector)
    if as_json:
        click.echo(
            json.dumps({"signing": [founded.thumbprint], "genesis": founded.fingerprint, "admin": name})
        )
        return
    click.echo(f"signing key {founded.thumbprint}")
    click.echo(f"genesis     {founded.fingerprint}")
    click.echo(
        f"\nWrite both down: people pin the first with `unlatch gate trust URL --thp …`, the second with"
        f" `unlatch audit verify --genesis …`.\nNext: unlatch gate workload add NAME --dir {folder} --approver {name}"
        f" --sign-with {admin_key.with_suffix('')}\n      unlatch gate serve {folder}",
        err=True,
    )


@command.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--listen", default="127.0.0.1:7070", show_default=True, help="For machines: HOST:PORT, 0 picks a port."
)
@click.option("--people", default="127.0.0.1:7071", show_default=True, help="For people: HOST:PORT.")
@click.option("--url", help="Public address of the machines' listener, as sealed files name it.")
@click.option("--people-url", help="Public address of the people's listener.")
@click.option("--tls-cert", type=FILE, help="Certificate chain (PEM) for both listeners.")
@click.option("--tls-key", type=FILE, help="Its private key (PEM).")
@click.pass_context
def serve(ctx: click.Context, /, folder: Path, **options: Any) -> None:
    """Serve a gate until SIGTERM: decider in this process, keyholder in its own."""
    from unlatch.errors import UsageError
    from unlatch.gate.admin import check_folder
    from unlatch.gate.server import Options
    from unlatch.gate.server import serve as run

    if (options["tls_cert"] is None) != (options["tls_key"] is None):
        raise UsageError("--tls-cert and --tls-key go together")
    check_folder(folder)
    ctx.exit(run(Options(folder=folder.resolve(), **options)))


@command.command()
@click.argument("folder", metavar="[DIR]", type=FOLDER, required=False, envvar="UNLATCH_GATE_DIR")
@click.option("--dir", "folder_option", type=FOLDER, help="The same as DIR.")
@JSON_OPTION
def keys(folder: Path | None, folder_option: Path | None, as_json: bool) -> None:
    """Print what people compare: the signing key, the genesis, the key of each workload. Run it on the gate itself."""
    from unlatch.errors import UsageError
    from unlatch.gate.admin import read_links
    from unlatch.gate.roster import Roster

    chosen = folder or folder_option
    if chosen is None:
        raise UsageError("say whose keys: unlatch gate keys DIR")
    roster = Roster.fold(read_links(chosen))
    kids = {one.name: one.kid for one in roster.workloads.values()}
    if as_json:
        shown = {"signing": [roster.genesis.gate], "genesis": roster.fingerprint, "workloads": kids}
        click.echo(json.dumps(shown))
        return
    click.echo(f"signing key {roster.genesis.gate}")
    click.echo(f"genesis     {roster.fingerprint}")
    for workload_name, kid in kids.items():
        click.echo(f"workload {workload_name}: {kid}")


@command.command()
@click.argument("url")
@click.option(
    "--thp", metavar="THUMBPRINT", help="The signing key, as `unlatch gate keys` shows it on the gate itself."
)
@click.option("--trust-on-first-use", is_flag=True, help="Believe whoever answers now.")
@click.option("--name", help="What to call it. Default: the host's name.")
@JSON_OPTION
def trust(url: str, thp: str | None, trust_on_first_use: bool, name: str | None, as_json: bool) -> None:
    """Pin a gate's signing key, for seal, pending, approve and the rest."""
    import re
    from urllib.parse import urlsplit

    from unlatch.bootstrap.approval.receipt import split_gate_url
    from unlatch.bootstrap.context import Context, contexts_folder
    from unlatch.errors import UsageError
    from unlatch.gate.http import GateHttp

    base, _ = split_gate_url(url)
    host = urlsplit(base).hostname or "gate"
    called = name or re.sub(r"[^a-z0-9.-]", "-", host.lower()).strip(".-")
    context = Context.from_advertisement(GateHttp(base).raw("/adv"), name=called, url=base, thumbprint=thp)
    if thp is None and not trust_on_first_use:
        raise UsageError(
            f"say whom to trust: {base} answers with {', '.join(context.thumbprints)}",
            hint="compare with `unlatch gate keys` on the gate itself, then --thp THUMBPRINT (or --trust-on-first-use)",
        )
    path = context.save(contexts_folder())
    if as_json:
        click.echo(
            json.dumps({"name": called, "url": context.url, "people": context.people, "file": str(path)})
        )
        return
    click.echo(f"{called}: {context.url}, {context.trust}, {', '.join(context.thumbprints)}")


def name_from_comment(path: Path) -> str:
    """An operator's name from the comment of his key."""
    from unlatch.errors import UsageError

    fields = path.read_text().split(None, 2)
    comment = fields[2].strip() if len(fields) == 3 else ""
    name = comment.partition("@")[0].lower()
    if not name:
        raise UsageError("the key has no comment to take a name from", hint="--admin-name NAME")
    return name


for part in (workload, operator, host, protect_command):
    command.add_command(part)
