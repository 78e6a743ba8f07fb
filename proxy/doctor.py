"""What is wrong or weak about a configuration on this host, held against facts that are arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from unlatch.errors import ConfigError
from unlatch.memguard.doctor.facts import Host
from unlatch.memguard.doctor.finding import Finding, failure, ok, warning
from unlatch.memguard.doctor.host import LOCKED_BYTES, open_files
from unlatch.proxy.config import Config
from unlatch.proxy.users import Identity


def check(config: Config, host: Host, *, where: str, processors: int) -> Iterator[Finding]:
    """Judge a valid configuration.

    Args:
        config: the configuration.
        host: what this host offers.
        where: the file's name.
        processors: how many workers edge has where the configuration names no number.
    """
    yield open_files(
        host, connections=config.limits.connections, workers=config.workers or min(processors, 16)
    )
    yield from (
        failure(
            f"guard.require names {name}, which this host does not offer: serve ends with 21", where, hint
        )
        for name, hint in missing(host).items()
        if name in config.guard.require
    )
    if not config.unlock.gates:
        yield warning(
            "unlock.gates names no gate: whoever swaps the sealed file chooses who is asked",
            where,
            "unlock: {gates: [THUMBPRINT]}; unlatch inspect shows it",
        )
    if config.unlock.unbound:
        yield warning(
            "unlock.unbound lets secrets be used without sealed rules",
            where,
            "seal with rules, then leave it out",
        )


def missing(host: Host) -> dict[str, str]:
    """Protections of `guard.require` that this host does not offer, with what would help."""
    locks_all = host.may_lock_all or host.locked_bytes is None
    absent = {
        "memfd_secret": (
            host.secret_memory is not None or not (locks_all or (host.locked_bytes or 0) >= LOCKED_BYTES),
            "Linux 6.5 or newer, or secretmem.enable=1, and LimitMEMLOCK of 16 MiB or more",
        ),
        "keyring": (host.keyring is not None, "let the container call add_key and keyctl"),
        "all_locked": (not locks_all, "LimitMEMLOCK=infinity"),
        "landlock": (host.landlock == 0, "landlock in lsm= of the kernel's command line"),
        "own_user": (not host.is_root, "start the service as root"),
    }
    return {name: hint for name, (is_absent, hint) in absent.items() if is_absent}


def users(chosen: Mapping[str, Identity] | ConfigError, where: str) -> Finding:
    """Judge who guard, edge and egress would be, were the proxy started as the one who asks."""
    if isinstance(chosen, ConfigError):
        return failure(str(chosen), where, chosen.hint)
    if not chosen:
        return warning(
            "started by this user, guard, edge and egress are one user: who takes over edge can signal guard",
            where,
            "start the service as root: each then becomes a user of its own",
        )
    return ok(", ".join(f"{role} is {one}" for role, one in chosen.items()), where)
