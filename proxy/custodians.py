"""The custodians of one run: a process for each token and TPM that the configuration names keys in.

Rule 1: they are started after unlock, never forked from, and each gives guard one end of a socket; the supervisor
keeps none. Rule 2: one that ends is started again, except where it says that its configuration is wrong for this
machine (exit code 21). Rule 3: other keys go on, whatever becomes of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Mapping
from typing import Any

from unlatch.memguard.custodian.launch import HUNG, launch
from unlatch.proxy.guard_process import Guard
from unlatch.proxy.log import log

WRONG_CONFIGURATION = 21
FAREWELL_SECONDS = 2.0
FIRST_PAUSE, LONGEST_PAUSE, CALM_SECONDS = 0.1, 0.8, 10.0
"""Hardware that is well again must serve within 2 s, of which Python's start takes half a second."""


class Custodians:
    """Starts, keeps and ends them."""

    def __init__(self, configs: list[dict[str, Any]], *, pins: Mapping[str, str]) -> None:
        self._configs = configs
        self._pins = pins
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._restarts: Counter[int] = Counter()
        self._last_end: dict[int, str] = {}

    async def start(self, guard: Guard) -> None:
        """Start all of them and introduce each to guard."""
        for number in range(len(self._configs)):
            await self._start(number, guard)

    async def keep(self, guard: Guard) -> None:
        """Start each again whenever it ends; runs until it is cancelled."""
        await asyncio.gather(*(self._keep(number, guard) for number in range(len(self._configs))))
        await asyncio.Event().wait()

    async def end(self) -> None:
        """End all of them: politely, since a TPM without a resource manager keeps what nobody gives back; then by force."""
        processes, self._processes = list(self._processes.values()), {}
        self._signal(processes, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await asyncio.gather(*(process.wait() for process in processes))
        self._signal(processes, signal.SIGKILL)
        for process in processes:
            await process.wait()

    def describe(self) -> dict[str, Any]:
        """Process ids, and how often and why one was started again, for `status`."""
        return {
            f"custodian {number}": {
                "pid": process.pid,
                "hardware": hardware_of(self._configs[number]),
                "restarts": self._restarts[number],
                "last_end": self._last_end.get(number),
            }
            for number, process in self._processes.items()
        }

    def _signal(self, processes: list[asyncio.subprocess.Process], number: signal.Signals) -> None:
        for process in processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    async def _start(self, number: int, guard: Guard) -> None:
        config = self._configs[number]
        hardware = hardware_of(config)
        process, socket = await launch(config)
        self._processes[number] = process
        with socket:
            await guard.control.custodian(
                socket.fileno(),
                number=number,
                hardware=hardware,
                keys=[{"id": key["id"], "name": key["name"]} for key in config["keys"]],
                pin=self._pins.get(hardware),
            )
        log("custodian started", pid=process.pid, hardware=hardware)

    async def _keep(self, number: int, guard: Guard) -> None:
        clock = asyncio.get_running_loop().time
        pause = FIRST_PAUSE
        while True:
            started = clock()
            status = await self._processes[number].wait()
            why = self._last_end[number] = in_words(status)
            log("custodian died", status=status, why=why, hardware=hardware_of(self._configs[number]))
            if status == WRONG_CONFIGURATION:
                return
            if clock() - started > CALM_SECONDS:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            await self._start(number, guard)
            self._restarts[number] += 1


def in_words(status: int) -> str:
    """Why a custodian ended."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    known = {HUNG: "its module hung", WRONG_CONFIGURATION: "wrong configuration for this machine"}
    return known.get(status, f"exit code {status}")


def hardware_of(config: Mapping[str, Any]) -> str:
    """What a custodian is for, in one word: the token's URI, or `tpm`."""
    return str(config["token"]) if config["kind"] == "pkcs11" else "tpm"
