"""Enrolling: build an enrolment on the head of the chain, have it signed, hand it in.

Works on a gate's folder while the gate is stopped (this process starts keyholder itself), and over the people's listener
while it runs. Either way the same administrator's signature decides.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from unlatch.bootstrap.approval import base64url
from unlatch.errors import ConfigError, UnlatchError
from unlatch.gate.enrolment import NAMESPACE, Change, Link, write_enrolment
from unlatch.gate.roster import Roster
from unlatch.gate.signing import sign

SERVING_FILE = "serving.json"

Links = list[tuple[bytes, str | None]]


class Registry(Protocol):
    """A gate that takes enrolments."""

    def links(self) -> Links:
        """The chain from the genesis on."""
        ...

    def new_key(self) -> str:
        """The thumbprint of a new exchange key that the next enrolment may name."""
        ...

    def hand_in(self, enrolment: bytes, signature: str) -> None:
        """Give a signed enrolment to the gate."""
        ...


def enrol(registry: Registry, make: Callable[[Roster], Change], *, key: Path) -> Roster:
    """Sign a change on top of the chain and hand it in.

    Args:
        make: gives the change from the roster as it stands.

    Returns:
        The roster with the change.

    Raises:
        RefusedError: the chain does not hold, the change is against the rules, or the gate does not take it.
    """
    roster = Roster.fold(registry.links())
    data = write_enrolment(Link(seq=roster.seq + 1, prev=roster.head, time=int(time.time())), make(roster))
    signature = sign(data, key=key, namespace=NAMESPACE)
    following = roster.enrol(data, signature)
    registry.hand_in(data, signature)
    return following


@dataclass(frozen=True, slots=True)
class StoppedGate:
    """A gate's folder, while `gate serve` does not run."""

    call: Callable[[str, dict[str, Any]], dict[str, Any]]

    def links(self) -> Links:
        """The chain, as keyholder has it."""
        found = self.call("links", {})["links"]
        return [(base64url.decode(link["enrolment"]), link["signature"]) for link in found]

    def new_key(self) -> str:
        """A new key in keyholder's memory."""
        return str(self.call("new-key", {})["kid"])

    def hand_in(self, enrolment: bytes, signature: str) -> None:
        """Keyholder first, then the audit log."""
        self.call("enrol", {"enrolment": enrolment, "signature": signature})


def with_stopped_gate(folder: Path, use: Callable[[Registry], Roster]) -> Roster:
    """Start keyholder on a folder, do something with it, and end it.

    Raises:
        ConfigError: the folder is no gate's, or in use.
    """
    from unlatch.gate.database import Ledger, database_url, migrate, open_engine
    from unlatch.gate.docket import Docket
    from unlatch.gate.keyholder_client import KeyholderClient, start_keyholder, why_it_ended
    from unlatch.gate.office import Office
    from unlatch.gate.wire import KeyholderGoneError

    check_folder(folder)

    async def run() -> Roster:
        process, channel = start_keyholder(
            folder, origin="http://localhost", people="http://localhost", quiet=True
        )
        engine = open_engine(database_url(folder))
        ledger, keyholder = Ledger(engine), await KeyholderClient.connect(channel)
        try:
            await migrate(engine)
            await ledger.load()
            docket = Docket(ledger, keyholder, now=time.time, monotonic=time.monotonic, tell=_tell_nobody)
            office = Office(ledger, keyholder, docket, learn=_learn_nothing)
            try:
                await office.start()
            except KeyholderGoneError as error:
                raise await asyncio.to_thread(why_it_ended, process) or error from error
            loop = asyncio.get_running_loop()

            async def answer(question: str, fields: dict[str, Any]) -> dict[str, Any]:
                if question == "links":
                    return {"links": office.links()}
                if question == "new-key":
                    return await office.new_key()
                return await office.enrol(**fields)

            def call(question: str, fields: dict[str, Any]) -> dict[str, Any]:
                return asyncio.run_coroutine_threadsafe(answer(question, fields), loop).result()

            roster = await asyncio.to_thread(use, StoppedGate(call))
            await docket.checkpoint()
            return roster
        finally:
            await keyholder.close()
            await ledger.close()
            channel.close()
            await asyncio.to_thread(process.wait)
            if process.stderr is not None:
                process.stderr.close()

    return asyncio.run(run())


def running_gate(folder: Path) -> str | None:
    """The people's address of the gate that serves a folder, None where none does."""
    import os

    from unlatch.gate.database import DECIDER
    from unlatch.gate.keyholder_main import lock_folder

    check_folder(folder)
    try:
        os.close(lock_folder(folder / "keyholder"))
    except UnlatchError:
        try:
            return str(json.loads((folder / DECIDER / SERVING_FILE).read_text())["people"])
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"{folder} is in use, but no gate serves it yet", hint="try again in a moment"
            ) from error
    return None


def check_folder(folder: Path) -> None:
    """Refuse a folder that `gate init` did not make."""
    if not (folder / "keyholder" / "chain").is_file():
        raise ConfigError(
            f"{folder} is no gate's folder", hint=f"unlatch gate init {folder} --admin-key KEY.pub"
        )


def read_links(folder: Path) -> Links:
    """The chain in a gate's folder, whether it is served or not."""
    check_folder(folder)
    lines = (folder / "keyholder" / "chain").read_bytes().split(b"\n")[:-1]
    found = [json.loads(line) for line in lines]
    return [(base64url.decode(link["enrolment"]), link["signature"]) for link in found]


def _tell_nobody(event: str, **facts: object) -> None:
    """A command's own output says enough."""


async def _learn_nothing(_: Roster) -> None:
    """A stopped gate advertises nothing."""
