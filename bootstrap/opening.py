"""Opening one sealed file by hand, from the pins to its secrets: what `open` and `exec` do alike."""

from __future__ import annotations

import random
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from unlatch.bootstrap import files, jose
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.client import Change, GateTransport
from unlatch.bootstrap.approval.console import show
from unlatch.bootstrap.identity.keys import usable
from unlatch.bootstrap.open import recover_content_key
from unlatch.bootstrap.pins.hardware import beside
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import ConfigError
from unlatch.memguard._native import Bundle, Secret, jwe_open

MAX_KEY_BYTES = 64 * 1024
DECISION_SECONDS = 600.0
RULES_ONLY = "hardware-key"
"""The kind of what a file holds rules for and no secret: a key that stays in its hardware."""
ONLY = "secret"
"""What the one secret of a file that is no bundle is called."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The secrets of an opened file, in locked memory."""

    names: tuple[str, ...]
    content: Bundle | Secret

    def secret(self, name: str) -> Secret:
        """Give one secret: a private key as PEM, a token as its bytes.

        Raises:
            ConfigError: there is none of this name.
        """
        if name not in self.names:
            raise unknown_name(name, self.names)
        return self.content.secret(name) if isinstance(self.content, Bundle) else self.content


def open_by_hand(
    path: Path,
    sealed: SealedFile,
    *,
    timeout: float | None = None,
    no_wait: bool = False,
    reason: str | None = None,
    recovery_key: Path | None = None,
) -> Opened:
    """Open a file as its pins say; the waiting line and each change go to standard error.

    Args:
        path: where the file was read: signed PCR values may lie beside it.
        sealed: the parsed file.
        timeout: seconds to wait for people; None: as long as is usual.
        no_wait: ask, then end with PendingError.
        reason: shown to the people who decide.
        recovery_key: the offline key's file; asks nobody.

    Raises:
        UnlatchError: denied, undecided, unreachable, damaged, …
    """
    last_resort = files.read_secret(recovery_key, MAX_KEY_BYTES) if recovery_key else None
    content_key = recover_content_key(
        sealed,
        transport=_transport(sealed, timeout=timeout, no_wait=no_wait, reason=reason),
        recovery_key=last_resort,
        asking_timeout=timeout,
        hardware=beside(path, may_prompt=True),
    )
    plaintext = jwe_open(sealed.compact, content_key)
    content_key.wipe()
    if not sealed.is_bundle:
        return Opened((ONLY,), plaintext)
    bundle = Bundle(plaintext)
    return Opened(_names(bundle), bundle)


def announced(sealed: SealedFile) -> tuple[str, ...] | None:
    """Give the names that the header tells; None where it tells none. They are authenticated when the file opens."""
    if not sealed.is_bundle:
        return (ONLY,)
    secrets = sealed.labels.get("secrets")
    if not isinstance(secrets, dict):
        return None
    return tuple(name for name, kind in secrets.items() if kind != RULES_ONLY)


def unknown_name(name: str, known: tuple[str, ...]) -> ConfigError:
    """Say that a file holds no secret of a name."""
    return ConfigError(f"the file holds no secret {name!r}", hint=f"it holds {', '.join(known)}")


def _transport(
    sealed: SealedFile, *, timeout: float | None, no_wait: bool, reason: str | None
) -> GateTransport:
    claims = Claims(
        workload=sealed.workload or "unnamed",
        host=socket.gethostname(),
        reason=reason,
        bundle_digest=sealed.digest,
    )
    return GateTransport(
        claims=claims,
        gates=None,
        host=usable(lambda text: show(Change(text))),
        wait=DECISION_SECONDS if timeout is None else timeout,
        no_wait=no_wait,
        on_event=show,
        now=time.time,
        monotonic=time.monotonic,
        sleep=time.sleep,
        uniform=lambda limit: random.uniform(0, limit),  # noqa: S311 - spreads load, guards nothing
    )


def _names(bundle: Bundle) -> tuple[str, ...]:
    described = jose.read_json(bundle.describe())
    assert isinstance(described, dict)
    return tuple(str(secret["name"]) for secret in described["secrets"] if secret["kind"] != RULES_ONLY)
