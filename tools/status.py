"""unlatch status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

SERVING, ASKING, WEAKER = 0, 12, 24


@click.command(name="status")
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    default=Path("/run/unlatch/admin.sock"),
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, path: Path, as_json: bool) -> None:
    """Say whether the proxy is locked, asking or serving.

    Exit codes: 0 serving, 3 not running, 12 locked or asking, 24 serving, but this
    system lacks a protection that guard.accept does not name, a fallback signs in
    the place of a key in hardware, or guard signed more than connections explain.
    """
    from unlatch.proxy.admin import ask

    status = ask(path, {"do": "status"})
    if as_json:
        click.echo(json.dumps(status))
    else:
        click.echo(f"{status['state']} on {', '.join(status['addresses'])}")
        if status["card"]:
            click.echo(f"card {status['card']}")
        if status["failure"]:
            click.echo(f"last failure: {status['failure']['message']}")
        for message in status["weaker"]:
            click.echo(f"weaker: {message}")
        for key in status["keys"]:
            click.echo(f"key {key['name']}: {_of_key(key)}")
        for name, process in status["processes"].items():
            click.echo(f"{name}: pid {process['pid']}")
    context.exit(exit_code(status))


def _of_key(key: dict[str, Any]) -> str:
    """What edge measured, from question to answer."""
    facts = [f"{key['signatures']} signatures"]
    if key["p50_ms"] is not None:
        facts.append(f"p50 {key['p50_ms']:g} ms, p99 {key['p99_ms']:g} ms")
    if key["failed"]:
        facts.append(f"{key['failed']} failed")
    if "state" in key:
        facts.append(f"{key['hardware']} {key['state']}")
    if "fallback" in key and key["fallback"]["signatures"]:
        facts.append(f"{key['fallback']['signatures']} by its fallback sealed:{key['fallback']['key']}")
    return ", ".join(facts)


def exit_code(status: dict[str, Any]) -> int:
    """The state as an exit code."""
    if status["state"] != "serving":
        return ASKING
    return WEAKER if status["weaker"] else SERVING
