"""`gate init`: a new gate's folder, keys, genesis and database."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from unlatch.bootstrap.pins.hardware import NO_ADVICE, Hardware
from unlatch.errors import ConfigError
from unlatch.gate import durable
from unlatch.gate.enrolment import NAME
from unlatch.gate.master import Protector
from unlatch.gate.sshsig import PublicKey
from unlatch.gate.vault import NO_HARDWARE, Vault


@dataclass(frozen=True, slots=True)
class Founded:
    """What `gate init` prints for people to write down."""

    thumbprint: str
    fingerprint: str


def found_gate(
    folder: Path,
    *,
    admin: str,
    key: PublicKey,
    now: float,
    protector: Protector = NO_HARDWARE,
    hardware: Hardware = NO_ADVICE,
) -> Founded:
    """Make a gate in a folder that is not there yet, or is empty.

    Args:
        protector: of the master key.
        hardware: how TPM and tokens are reached.

    Raises:
        ConfigError: the folder holds something, or cannot be made.
    """
    from unlatch.gate.database import DECIDER, database_url, migrate, open_engine
    from unlatch.gate.keyholder import begin_chain

    if not NAME.match(admin):
        raise ConfigError(
            f"{admin!r} is no operator's name", hint="--admin-name NAME: 1 to 64 of a-z 0-9 . _ -"
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", hint="a gate's keys are made once: choose another folder")
    if not folder.is_dir():
        durable.make_folder(folder)
    folder.chmod(durable.PRIVATE_FOLDER)
    vault = Vault.create(folder / "keyholder", protector=protector, hardware=hardware)
    durable.make_folder(folder / DECIDER)
    roster = begin_chain(folder / "keyholder", name=admin, key=str(key), vault=vault, now=now)

    async def make_tables() -> None:
        engine = open_engine(database_url(folder))
        await migrate(engine)
        await engine.dispose()

    asyncio.run(make_tables())
    for path in (folder / DECIDER).iterdir():
        path.chmod(durable.PRIVATE_FILE)
    return Founded(thumbprint=vault.thumbprint, fingerprint=roster.fingerprint)
