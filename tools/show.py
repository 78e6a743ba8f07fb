"""unlatch show."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import click


@click.command(name="show")
@click.argument("request", metavar="[ID]", required=False)
@click.option("--gate", "name", metavar="NAME|URL", help="A trusted gate.")
@click.option("--key", type=click.Path(path_type=Path), help="Your SSH key: private, or .pub with an agent.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(request: str | None, name: str | None, key: Path | None, as_json: bool) -> None:
    """Show one request, each fact marked verified, said by the gate, or claimed by the asker."""
    from unlatch.bootstrap.context import find_context
    from unlatch.bootstrap.identity.proof import Identity, in_words
    from unlatch.gate.desk import Desk
    from unlatch.gate.show import card
    from unlatch.gate.signing import choose_key

    desk = Desk(find_context(name), key=choose_key(key))
    found = desk.request(desk.choose(request))
    if as_json:
        shown = {
            "id": found.receipt.id,
            "workload": found.receipt.workload,
            "gate": found.receipt.gate,
            "client": found.receipt.client,
            "card": found.receipt.card,
            "issued": found.receipt.issued,
            "expires": found.receipt.expires,
            "identity": in_words(found.receipt.identity),
            "host_key": Identity.parse(found.receipt.identity).key if found.receipt.identity else None,
            "said": {
                "state": found.standing.state,
                "approvals": found.standing.approvals,
                "needed": found.standing.needed,
                "source": found.source,
            },
            "claims": asdict(found.claims) if found.claims else None,
        }
        click.echo(json.dumps(shown))
        return
    click.echo(card(found, now=time.time()))
