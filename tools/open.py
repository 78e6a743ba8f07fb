"""unlatch open: opens a sealed file and writes one secret out."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlatch.errors import UsageError

if TYPE_CHECKING:
    from unlatch.bootstrap.pins.hardware import Hardware
    from unlatch.bootstrap.pins.tang import Transport
    from unlatch.bootstrap.sealed import SealedFile
    from unlatch.memguard._native import Secret

STDOUT = 1
MAX_KEY_BYTES = 64 * 1024
DECISION_SECONDS = 600.0


@click.command(name="open")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--secret", "name", help="Which secret of a bundle; needless when it holds one.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write to a file (0600) instead of standard output."
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="How long to wait for people (default: as the gate says).",
)
@click.option(
    "--recovery-key",
    type=click.Path(path_type=Path),
    help="Open with the offline key; asks no gate and no person.",
)
@click.option(
    "--no-wait", is_flag=True, help="Ask, then end with exit code 12 instead of waiting for a person."
)
@click.option("--reason", help="Why you ask: shown to the people who decide.")
def command(
    file: Path,
    name: str | None,
    out: Path | None,
    force: bool,
    timeout: float | None,
    recovery_key: Path | None,
    no_wait: bool,
    reason: str | None,
) -> None:
    """Open a sealed file and write one secret out.

    A private key is never printed on a terminal. Example: unlatch open pay.jwe --secret tls --out tls.pem
    """
    from unlatch.bootstrap import files
    from unlatch.bootstrap.pins.hardware import beside

    sealed = files.read_sealed(file)
    if out is not None:
        files.refuse_existing(out, force=force)
    key_of_last_resort = files.read_secret(recovery_key, MAX_KEY_BYTES) if recovery_key else None
    transport = _transport(sealed, timeout=timeout, wait=not no_wait, reason=reason)
    secret = _open(
        sealed,
        name,
        transport=transport,
        recovery_key=key_of_last_resort,
        timeout=timeout,
        hardware=beside(file, may_prompt=True),
    )
    if out is not None:
        files.write_secret(out, secret, force=force)
        return
    _refuse_terminal(secret)
    sys.stdout.flush()
    secret.write_fd(STDOUT)


def _transport(sealed: SealedFile, *, timeout: float | None, wait: bool, reason: str | None) -> Transport:
    import random
    import socket
    import time

    from unlatch.bootstrap.approval.claims import Claims
    from unlatch.bootstrap.approval.client import GateTransport
    from unlatch.bootstrap.approval.console import show

    claims = Claims(
        workload=sealed.workload or "unnamed",
        host=socket.gethostname(),
        reason=reason,
        bundle_digest=sealed.digest,
    )
    return GateTransport(
        claims=claims,
        gates=None,
        wait=DECISION_SECONDS if timeout is None else timeout,
        no_wait=not wait,
        on_event=show,
        now=time.time,
        monotonic=time.monotonic,
        sleep=time.sleep,
        uniform=lambda limit: random.uniform(0, limit),  # noqa: S311 - spreads load, guards nothing
    )


def _open(
    sealed: SealedFile,
    name: str | None,
    *,
    transport: Transport,
    recovery_key: Secret | None,
    timeout: float | None,
    hardware: Hardware,
) -> Secret:
    from unlatch.bootstrap.open import recover_content_key
    from unlatch.memguard._native import Bundle, jwe_open

    if name is not None and not sealed.is_bundle:
        raise UsageError("this file is no bundle: it holds one secret", hint="leave --secret out")
    content_key = recover_content_key(
        sealed,
        transport=transport,
        recovery_key=recovery_key,
        asking_timeout=timeout,
        hardware=hardware,
    )
    plaintext = jwe_open(sealed.compact, content_key)
    content_key.wipe()
    if not sealed.is_bundle:
        return plaintext
    bundle = Bundle(plaintext)
    return bundle.secret(name or _only_name(bundle))


def _only_name(bundle: object) -> str:
    from unlatch.bootstrap import jose
    from unlatch.memguard._native import Bundle

    assert isinstance(bundle, Bundle)
    described = jose.read_json(bundle.describe())
    assert isinstance(described, dict)
    names = [secret["name"] for secret in described["secrets"]]
    if len(names) != 1:
        raise UsageError(f"the bundle holds {', '.join(names)}", hint="choose one with --secret NAME")
    return str(names[0])


def _refuse_terminal(secret: Secret) -> None:
    if not os.isatty(STDOUT):
        return
    with secret.expose() as view:
        is_key = re.search(rb"PRIVATE KEY", view) is not None
    if is_key:
        raise UsageError(
            "a private key is never printed on a terminal", hint="write it with --out FILE, or into a pipe"
        )
