"""The unlock process: one shot from a sealed file to guard (docs/protocol.md 4).

Order: hook, then pins, then the content key and the file to guard, then the end of the process, which wipes what
Python could not. The supervisor never sees the content key.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.client import Change, Event, GateTransport, Waiting
from unlatch.bootstrap.approval.console import show
from unlatch.bootstrap.hook import HookAnswer, run_hook
from unlatch.bootstrap.identity.keys import usable
from unlatch.bootstrap.open import recover_content_key
from unlatch.bootstrap.pins.hardware import beside
from unlatch.bootstrap.sealed import MAX_BYTES, SealedFile
from unlatch.errors import ConfigError, DamagedFileError, UnavailableError, UnlatchError
from unlatch.memguard._native import Secret
from unlatch.memguard.posture import environment, process

GUARD_SECONDS = 30.0
CONTENT_KEY_BYTES = 32


def main() -> None:
    """Run with three descriptors: job to read, events to write, guard's load stream."""
    harden()
    job_fd, event_fd, guard_fd = map(int, sys.argv[1:4])
    with os.fdopen(job_fd, "rb") as file:
        job = json.load(file)
    with os.fdopen(event_fd, "w") as events, socket.socket(fileno=guard_fd) as guard:

        def tell(event: str, **fields: Any) -> None:
            events.write(json.dumps({"event": event} | fields) + "\n")
            events.flush()

        try:
            unlock(job, guard, tell)
        except UnlatchError as error:
            tell("failed", message=str(error), hint=error.hint)
            sys.exit(error.exit_code)


def harden() -> None:
    """Overwrite what is freed, leave no core file, and let no other process of this user read our memory."""
    environment.require()
    if not process.close_to_others():
        raise ConfigError("the unlock process cannot be made non-dumpable")


def unlock(job: Mapping[str, Any], guard: socket.socket, tell: Callable[..., None]) -> None:
    """Ask as the job says, and hand the content key with the file to guard."""
    sealed = read_sealed(Path(job["bundle"]))
    facts = describe(job, sealed)
    if job["hook"]:
        tell("hook", program=job["hook"][0])
        answer = run_hook(job["hook"], facts, seconds=job["hook_timeout"])
    else:
        answer = HookAnswer()
    key = _recover(job, sealed, facts, answer, tell)
    with key.expose() as view:
        size = len(view)
    if size != CONTENT_KEY_BYTES:
        raise DamagedFileError(f"the content key has {size} bytes, not {CONTENT_KEY_BYTES}")
    tell("opened")
    try:
        guard.settimeout(GUARD_SECONDS)
        guard.sendall(struct.pack(">II", 1, len(sealed.compact)))
        guard.setblocking(True)
        key.write_fd(guard.fileno())
        key.wipe()
        guard.settimeout(GUARD_SECONDS)
        guard.sendall(sealed.compact)
        verdict = json.loads(_read_line(guard))
    except (OSError, ValueError) as error:
        raise UnavailableError("guard did not take the sealed file") from error
    if verdict.get("ok") is not True:
        raise DamagedFileError(str(verdict.get("message")), hint=verdict.get("hint"))


def _recover(
    job: Mapping[str, Any],
    sealed: SealedFile,
    facts: Mapping[str, Any],
    answer: HookAnswer,
    tell: Callable[..., None],
) -> Secret:
    """Ask the pins; a person sees the waiting line and each change, the supervisor all but the code."""
    claims = Claims(
        workload=sealed.workload or "unnamed",
        host=facts["host"],
        boot_id=facts["boot_id"],
        reason=answer.reason or job["reason"],
        config_digest=job["config_digest"],
        config_summary=job["config_summary"],
        bundle_digest=sealed.digest,
        extra=answer.claims,
    )

    def on_event(event: Event) -> None:
        show(event)
        if isinstance(event, Waiting):
            tell("asking", workload=event.workload, card=event.card, expires=event.expires)
        else:
            tell("change", text=event.text)

    transport = GateTransport(
        claims=claims,
        gates=frozenset(job["gates"]) or None,
        host=usable(lambda text: on_event(Change(text))),
        wait=job["wait"],
        until_expiry=job["until_expiry"],
        now=time.time,
        monotonic=time.monotonic,
        sleep=time.sleep,
        uniform=lambda limit: random.uniform(0, limit),  # noqa: S311 - spreads load, guards nothing
        on_event=on_event,
    )
    return recover_content_key(sealed, transport=transport, hardware=beside(Path(job["bundle"])))


def read_sealed(path: Path) -> SealedFile:
    """Read and parse a sealed file."""
    try:
        with path.open("rb") as file:
            return SealedFile.parse(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise ConfigError(
            f"cannot read the sealed file: {error.strerror}, {path}", hint="unlock.bundle names it"
        ) from error


def describe(job: Mapping[str, Any], sealed: SealedFile) -> dict[str, Any]:
    """Who asks, for what and why: what the hook reads and the card shows (docs/hooks.md)."""
    return {
        "version": 1,
        "workload": sealed.workload,
        "host": socket.gethostname(),
        "boot_id": boot_id(),
        "reason": job["reason"],
        "config": {
            "path": job["config_path"],
            "digest": job["config_digest"],
            "summary": json.loads(job["config_summary"]),
        },
        "bundle": {"path": job["bundle"], "digest": sealed.digest},
        "gates": list(job["gates"]),
    }


def boot_id() -> str | None:
    """The kernel's name for this boot, where there is one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _read_line(channel: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        chunk = channel.recv(4096)
        if not chunk or len(data) > 65536:
            raise ValueError
        data += chunk
    return data


if __name__ == "__main__":
    main()
