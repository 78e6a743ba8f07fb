"""unlatch gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from unlatch.gate.enrolment import Change
    from unlatch.gate.roster import Roster

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
DIR_OPTION = click.option(
    "--dir", "folder", type=FOLDER, envvar="UNLATCH_GATE_DIR", help="The gate's folder, on its own machine."
)
GATE_OPTION = click.option("--gate", "name", metavar="NAME|URL", help="A trusted gate, from anywhere.")
SIGN_OPTION = click.option(
    "--sign-with", "key", type=FILE, help="An administrator's SSH key: private, or .pub with an agent."
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="gate")
def command() -> None:
    """Run and manage an approving Tang server."""


@command.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--admin-key", type=FILE, required=True, help="The first administrator's SSH public key.")
@click.option("--admin-name", help="His name. Default: the key's comment, up to an @.")
@JSON_OPTION
def init(folder: Path, admin_key: Path, admin_name: str | None, as_json: bool) -> None:
    """Make a new gate: its keys, its first administrator, its audit log."""
    import time

    from unlatch.gate.found import found_gate
    from unlatch.gate.signing import read_public_key

    key = read_public_key(admin_key)
    name = admin_name or name_from_comment(admin_key)
    founded = found_gate(folder, admin=name, key=key, now=time.time())
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


@command.group()
def workload() -> None:
    """Say what opens by whom."""


@workload.command(name="add")
@click.argument("workload_name", metavar="NAME")
@click.option(
    "--approver",
    "approvers",
    required=True,
    multiple=True,
    help="Names or .pub files; again, or with commas.",
)
@click.option(
    "--quorum", type=int, default=1, show_default=True, help="How many different people must approve."
)
@click.option(
    "--clients", type=click.Choice(["native", "stock", "both"]), default="native", show_default=True
)
@click.option("--hold", default="120s", show_default=True, help="How long a stock client's request is held.")
@click.option("--expires", default="10m", show_default=True, help="How long a native request waits.")
@click.option("--new-key", is_flag=True, help="Begin a new epoch: a new key for files sealed from now on.")
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
@JSON_OPTION
def workload_add(
    workload_name: str, approvers: tuple[str, ...], quorum: int, clients: Any, hold: str, expires: str,
    new_key: bool, folder: Path | None, name: str | None, key: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Add a workload, or change its policy. An administrator signs it."""
    from unlatch.gate.enrolment import SetWorkload

    def make(registry: Any) -> Callable[[Roster], Change]:
        def change(roster: Roster) -> Change:
            known = roster.workloads.get(workload_name)
            return SetWorkload(
                name=workload_name,
                kid=known.kid if known and not new_key else registry.new_key(),
                approvers=approver_names(approvers, roster),
                quorum=quorum,
                clients=clients,
                hold=read_seconds(hold),
                expires=read_seconds(expires),
            )

        return change

    roster = change_roster(make, folder=folder, name=name, key=key)
    facts = roster.workloads[workload_name]
    shown = {"workload": workload_name, "kid": facts.kid, "revision": facts.revision}
    click.echo(json.dumps(shown) if as_json else f"workload {workload_name}, key {facts.kid}")


@workload.command(name="list")
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
@JSON_OPTION
def workload_list(folder: Path | None, name: str | None, key: Path | None, as_json: bool) -> None:
    """List the workloads and their policies."""
    from dataclasses import asdict

    roster = read_roster(folder=folder, name=name, key=key)
    if as_json:
        click.echo(json.dumps({"workloads": [asdict(one) for one in roster.workloads.values()]}))
        return
    for one in roster.workloads.values():
        click.echo(
            f"{one.name}: {one.quorum} of {', '.join(one.approvers)}; {one.clients} clients;"
            f" hold {one.hold} s, expires {one.expires} s; key {one.kid}"
        )


@command.group()
def operator() -> None:
    """Say who may approve."""


@operator.command(name="add")
@click.argument("operator_name", metavar="NAME")
@click.argument("public_key", metavar="SSH.pub", type=FILE)
@click.option("--admin", is_flag=True, help="May enrol others and change policies.")
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
def operator_add(
    operator_name: str, public_key: Path, admin: bool, folder: Path | None, name: str | None, key: Path | None
) -> None:
    """Add an operator, or a second key of one. An administrator signs it."""
    from unlatch.gate.enrolment import AddOperator
    from unlatch.gate.signing import read_public_key

    added = read_public_key(public_key)
    change = AddOperator(name=operator_name, key=str(added), admin=admin)
    change_roster(lambda _: lambda _: change, folder=folder, name=name, key=key)
    click.echo(f"operator {operator_name}, key {added.fingerprint}")


@operator.command(name="suspend")
@click.argument("operator_name", metavar="NAME")
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
def operator_suspend(operator_name: str, folder: Path | None, name: str | None, key: Path | None) -> None:
    """Let an operator's signatures count no more. An administrator signs it."""
    from unlatch.gate.enrolment import Suspend

    change_roster(lambda _: lambda _: Suspend(name=operator_name), folder=folder, name=name, key=key)
    click.echo(f"operator {operator_name} is suspended")


@operator.command(name="list")
@DIR_OPTION
@GATE_OPTION
@SIGN_OPTION
@JSON_OPTION
def operator_list(folder: Path | None, name: str | None, key: Path | None, as_json: bool) -> None:
    """List the operators and their keys."""
    roster = read_roster(folder=folder, name=name, key=key)
    found = [
        {"name": one.name, "admin": one.is_admin, "suspended": one.is_suspended,
         "keys": [public.fingerprint for public in one.keys]}
        for one in roster.operators.values()
    ]  # fmt: skip
    if as_json:
        click.echo(json.dumps({"operators": found}))
        return
    for facts in found:
        marks = "".join(f" ({word})" for word in ("admin", "suspended") if facts[word])
        click.echo(f"{facts['name']}{marks}: {', '.join(facts['keys'])}")  # type: ignore[arg-type]


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


def change_roster(
    make: Callable[[Any], Callable[[Roster], Change]],
    *,
    folder: Path | None,
    name: str | None,
    key: Path | None,
) -> Roster:
    """Sign a change and hand it in: to a stopped gate's folder, or to a running gate."""
    from unlatch.gate.admin import enrol, running_gate, with_stopped_gate
    from unlatch.gate.signing import choose_key

    chosen = choose_key(key)
    if folder is not None and name is None and running_gate(folder) is None:
        return with_stopped_gate(folder, lambda registry: enrol(registry, make(registry), key=chosen))
    desk = open_desk(folder=folder, name=name, key=chosen)
    return enrol(desk, make(desk), key=chosen)


def read_roster(*, folder: Path | None, name: str | None, key: Path | None) -> Roster:
    """The roster from a gate's folder, or from a running gate (which asks for an operator's signature)."""
    from unlatch.gate.admin import read_links
    from unlatch.gate.roster import Roster
    from unlatch.gate.signing import choose_key

    if folder is not None and name is None:
        return Roster.fold(read_links(folder))
    return Roster.fold(open_desk(folder=None, name=name, key=choose_key(key)).links())


def open_desk(*, folder: Path | None, name: str | None, key: Path) -> Any:
    """The operator's side of a running gate: by its context, or by its own folder, which pins it as well."""
    from unlatch.bootstrap.context import Context, find_context
    from unlatch.gate.admin import read_links, running_gate
    from unlatch.gate.desk import Desk
    from unlatch.gate.http import GateHttp
    from unlatch.gate.roster import Roster

    if folder is None or name is not None:
        return Desk(find_context(name), key=key)
    people = str(running_gate(folder))
    pinned = Roster.fold(read_links(folder)).genesis.gate
    context = Context.from_advertisement(
        GateHttp(people).raw("/adv"), name="local", url=people, thumbprint=pinned
    )
    return Desk(context, key=key, keep_session=False)


def approver_names(given: tuple[str, ...], roster: Roster) -> tuple[str, ...]:
    """Names of operators from names and .pub files."""
    from unlatch.errors import ConfigError
    from unlatch.gate.signing import read_public_key

    names = []
    for text in (piece.strip() for one in given for piece in one.split(",")):
        if text.endswith(".pub"):
            owner = roster.find_key(read_public_key(Path(text)))
            if owner is None:
                raise ConfigError(
                    f"{text} is no operator's key", hint=f"unlatch gate operator add NAME {text}"
                )
            names.append(owner.name)
        elif text in roster.operators:
            names.append(text)
        else:
            raise ConfigError(
                f"no operator is called {text!r}", hint=f"unlatch gate operator add {text} KEY.pub"
            )
    return tuple(dict.fromkeys(names))


def read_seconds(text: str) -> int:
    """Seconds from 90, 90s, 10m or 2h."""
    from unlatch.errors import UsageError

    digits, unit = (text[:-1], text[-1:]) if text[-1:] in ("s", "m", "h") else (text, "s")
    if not digits.isdecimal():
        raise UsageError(f"{text!r} is no duration", hint="90s, 10m or 2h")
    return int(digits) * {"s": 1, "m": 60, "h": 3600}[unit]


def name_from_comment(path: Path) -> str:
    """An operator's name from the comment of his key."""
    from unlatch.errors import UsageError

    fields = path.read_text().split(None, 2)
    comment = fields[2].strip() if len(fields) == 3 else ""
    name = comment.partition("@")[0].lower()
    if not name:
        raise UsageError("the key has no comment to take a name from", hint="--admin-name NAME")
    return name
