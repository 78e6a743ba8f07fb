"""The process that wires the others: binds early, listens after unlock, restarts what may restart.

Rules of the state machine:
 1. No key, no listener. The door opens only after guard holds the secrets, has accepted the configuration, and edge
    is ready.
 2. A dead edge or egress is started again with new sockets to guard; nobody is asked, the listening sockets stay.
 3. A dead guard shuts the door at once, ends edge and egress, and leads back to asking.
 4. `relock` and a denial after the first start leave the proxy locked until `unlatch unlock`.
 5. At the first start an answer that retrying cannot change ends the process with its exit code.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

from unlatch.errors import ConfigError, UnavailableError, UnlatchError
from unlatch.proxy import anomaly, config_file, fallback, signature_watch, users
from unlatch.proxy.config_file import LoadedConfig
from unlatch.proxy.custodians import Custodians
from unlatch.proxy.door import Door
from unlatch.proxy.guard_process import Guard
from unlatch.proxy.keys_report import describe as describe_keys
from unlatch.proxy.log import log
from unlatch.proxy.notify import notify
from unlatch.proxy.unlocking import Outcome, unlock
from unlatch.proxy.wiring import Granted, RouteIds, Wiring, read_wiring
from unlatch.proxy.workers import Workers

# Exit codes after which asking again may help (docs/operations.md).
RETRY_CODES = frozenset({1, 11, 15, 19})
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
FIRST_RESTART_PAUSE = 0.05
LONGEST_RESTART_PAUSE = 5.0
CALM_SECONDS = 10.0
FALLBACK_LOOK = 1.0


class Supervisor:
    """Everything between `unlatch serve` and its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids = RouteIds()
        self._wiring = read_wiring(config_file.load(path), self._ids)
        count = self._config.workers or min(os.cpu_count() or 1, 16)
        self._door = Door([address for one in self._config.listeners for address in one.bind], workers=count)
        self._users = users.choose_for_this_host(self._config.users.model_dump())
        self._workers = Workers(self._door, count=count, users=self._users)
        self._custodians = Custodians([], pins={})
        self._guard: Guard | None = None
        self._granted = Granted()
        self._anomalies = anomaly.Watch()
        self._served_once = False
        self._reason: str | None = None
        self._ask = asyncio.Event()
        self._ask.set()
        self._stop = asyncio.Event()
        self._relock = asyncio.Event()
        self._changing = asyncio.Lock()
        self.state = "locked"
        self.card: str | None = None
        self.failure: Outcome | None = None

    @property
    def _config(self) -> Any:
        return self._wiring.loaded.config

    @property
    def loaded(self) -> LoadedConfig:
        """The configuration in force."""
        return self._wiring.loaded

    @property
    def addresses(self) -> list[str]:
        """Where the door is."""
        return self._door.addresses

    def stop(self) -> None:
        """Drain and end (SIGTERM)."""
        self._stop.set()

    async def run(self) -> int:
        """Serve until told to stop; gives the exit code."""
        stopped = asyncio.create_task(self._stop.wait())
        life = asyncio.create_task(self._live())
        try:
            await asyncio.wait({stopped, life}, return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                return life.result()
            notify("STOPPING=1")
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            return 0
        finally:
            stopped.cancel()
            await self._close_everything(self._config.timeouts.drain)
            self._door.close()
            log("stopped")

    async def _live(self) -> int:
        pause = FIRST_PAUSE
        while True:
            self._set_state("locked")
            await self._ask.wait()
            try:
                if self._guard is None:
                    self._guard = await Guard.start(user=self._users.get("guard"), settings=self._config)
                outcome = await self._unlock()
                if outcome.code == 0:
                    await self._start_serving()
            except UnlatchError as error:
                outcome = Outcome(error.exit_code, str(error), error.hint)
            if outcome.code == 0:
                pause = FIRST_PAUSE
                self.failure = None
                await self._serve()
                continue
            await self._close_everything(0)
            self.failure = outcome
            log("failed", code=outcome.code, message=outcome.message, hint=outcome.hint)
            if outcome.code in RETRY_CODES and not (
                outcome.code == 11 and self._config.unlock.on_timeout == "exit"
            ):
                self._set_state("locked")
                await self._pause(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            elif not self._served_once:
                return outcome.code
            else:
                self._ask.clear()

    async def _pause(self, seconds: float) -> None:
        """Wait with full jitter, so that a fleet does not ask in step."""
        await asyncio.sleep(seconds * (0.5 + random.random() / 2))  # noqa: S311 - spreads load, guards nothing

    async def _unlock(self) -> Outcome:
        assert self._guard
        loaded = self.loaded
        job = {
            "bundle": str(loaded.resolve(loaded.config.unlock.bundle)),
            "gates": list(loaded.config.unlock.gates),
            "wait": loaded.config.unlock.wait,
            "until_expiry": loaded.config.unlock.on_timeout == "ask-again",
            "hook": loaded.hook,
            "hook_timeout": loaded.config.unlock.hook_timeout,
            "reason": self._reason or loaded.config.unlock.reason or "start",
            "config_path": str(loaded.path),
            "config_digest": loaded.digest,
            "config_summary": config_file.summary(loaded.config),
        }
        self._set_state("unlocking")
        outcome = await unlock(
            job, self._guard.control, on_event=self._on_unlock_event, host_key=loaded.host_key
        )
        self.card = None
        self._reason = None
        return outcome

    def _on_unlock_event(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        event = {name: value for name, value in event.items() if name != "event"}
        if kind == "asking":
            self.card = event.get("card")
            self._set_state("asking", **event)
            notify(
                f"STATUS=asking: {self.card}",
                f"EXTEND_TIMEOUT_USEC={int(self._config.unlock.wait + 60) * 1_000_000}",
            )
        elif kind == "failed":
            return  # the outcome says it
        elif kind == "opened":
            log("unlocked")
        else:
            log(kind, **event)

    async def _start_serving(self) -> None:
        assert self._guard
        self._custodians = Custodians(self._wiring.custodians, pins=self._wiring.pins)
        await self._custodians.start(self._guard)
        await self._configure(self._wiring)
        await self._workers.start(self._guard, self._wiring, self._granted)
        self._door.open()
        self._served_once = True
        self._set_state("serving", addresses=self.addresses)
        notify("READY=1", "STATUS=serving")

    async def _configure(self, wiring: Wiring) -> None:
        assert self._guard
        try:
            answer = await self._guard.control.configure(wiring.guard)
        except ConfigError as error:
            raise type(error)(f"{error} [{wiring.loaded.path.name}]", hint=error.hint) from error
        self._granted = Granted.parse(answer)
        for warning in answer.get("warnings", []):
            log("warning", message=warning)

    async def _serve(self) -> None:
        """Until guard dies or the proxy is locked again."""
        assert self._guard
        tasks = {
            "guard": asyncio.create_task(self._guard.process.wait()),
            "relock": asyncio.create_task(self._relock.wait()),
            "custodians": asyncio.create_task(self._custodians.keep(self._guard)),
            "edge": asyncio.create_task(self._keep("edge")),
            "egress": asyncio.create_task(self._keep("egress")),
            "fallbacks": asyncio.create_task(self._watch_fallbacks()),
            "signatures": asyncio.create_task(self._watch_signatures()),
        }
        try:
            done, _ = await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            self._door.shut()
            if tasks["guard"] in done:
                log("guard died", status=self._guard.process.returncode)
        finally:
            for task in tasks.values():
                task.cancel()
            results = await asyncio.gather(*tasks.values(), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                    log("failed", message=f"{type(result).__name__}: {result}")
        if self._relock.is_set():
            self._relock.clear()
            self._ask.clear()
            await self._close_everything(0)
            log("relocked")
        elif not self._stop.is_set():
            await self._close_everything(0)

    async def _keep(self, role: str) -> None:
        """Start a child again whenever it ends, at growing intervals while it keeps ending."""
        clock = asyncio.get_running_loop().time
        pause = FIRST_RESTART_PAUSE
        while True:
            started = clock()
            status = await self._workers.ended(role)
            log(f"{role} died", status=status)
            if clock() - started > CALM_SECONDS:
                pause = FIRST_RESTART_PAUSE
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_RESTART_PAUSE)
            async with self._changing:
                assert self._guard
                try:
                    await self._workers.restart(role, self._guard, self._wiring, self._granted)
                except UnlatchError as error:
                    # Guard still holds what a person opened: trying again asks nobody.
                    log("failed", message=str(error), hint=error.hint)

    async def _close_everything(self, drain: float) -> None:
        """Shut the door, end edge and egress, end guard: what it held is wiped with it."""
        self._door.shut()
        await self._workers.end(drain)
        await self._custodians.end()
        guard, self._guard = self._guard, None
        if guard is not None:
            await guard.end()

    def ask(self, reason: str | None) -> None:
        """Ask again by hand, after a denial or `relock`."""
        if self.state not in {"locked"}:
            raise UnavailableError(f"nothing to ask for: the proxy is {self.state}")
        self._reason = reason
        self._ask.set()

    def lock(self) -> None:
        """Wipe every secret and stay locked until `ask`."""
        if self.state != "serving":
            raise UnavailableError(f"nothing to lock: the proxy is {self.state}")
        self._relock.set()

    async def reload(self) -> list[str]:
        """Take over the configuration file as it is now; a refused one leaves the old one in force."""
        wiring = read_wiring(config_file.load(self._path), self._ids)
        before, after = self._config, wiring.loaded.config
        for name in ("workers", "admin", "unlock", "users"):
            if getattr(before, name) != getattr(after, name):
                raise ConfigError(
                    f"{name} cannot change while the proxy runs",
                    hint="restart it: unlatch serve asks for approval again",
                )
        if wiring.custodians != self._wiring.custodians or before.hardware != after.hardware:
            raise ConfigError(
                "keys in hardware cannot come or go while the proxy runs", hint="restart the proxy"
            )
        if [one.bind for one in before.listeners] != [one.bind for one in after.listeners]:
            raise ConfigError(
                "the addresses of listeners cannot change while the proxy runs", hint="restart the proxy"
            )
        async with self._changing:
            if self.state != "serving":
                self._wiring = wiring
                return [f"taken over; the proxy is {self.state}"]
            assert self._guard
            try:
                await self._guard.settings(after)
                await self._configure(wiring)
                await self._workers.reload(self._wiring, wiring, self._granted)
            except UnlatchError:
                await self._guard.settings(before)
                await self._configure(self._wiring)
                raise
            self._wiring = wiring
        log("reloaded", digest=wiring.loaded.digest)
        return ["reloaded"]

    async def csr(self, name: str) -> str:
        """A certificate request for a sealed key, made and signed by guard from the sealed names."""
        if self._guard is None or self.state != "serving":
            raise UnavailableError(f"no key is open: the proxy is {self.state}", hint="unlatch status")
        return str(await self._guard.control.csr(name))

    async def status(self) -> dict[str, Any]:
        """What `unlatch status` shows."""
        children = self._workers.describe() | self._custodians.describe()
        keys: list[dict[str, Any]] = []
        if self._guard is not None:
            children["guard"] = {"pid": self._guard.process.pid}
            if self.state == "serving":
                children["guard"] |= await self._guard.control.status()
                edge = await self._workers.edge_status()
                children.get("edge", {})["counters"] = edge
                keys = self._describe_keys(edge, children["guard"])
        failure = None
        if self.failure is not None:
            failure = {"code": self.failure.code, "message": self.failure.message, "hint": self.failure.hint}
        return {
            "state": self.state,
            "addresses": self.addresses,
            "card": self.card,
            "config": {"path": str(self._path), "digest": self.loaded.digest},
            "processes": children,
            "keys": keys,
            "failure": failure,
            "anomalies": self._anomalies.count,
            "weaker": [
                *self._weaker(children),
                *fallback.weaker(keys),
                *signature_watch.told(self._anomalies),
            ],
        }

    def _describe_keys(self, edge: dict[str, Any], guard: dict[str, Any]) -> list[dict[str, Any]]:
        keys = self._granted.keys.values()
        return list(describe_keys(keys, edge=edge, guard=guard, fallbacks=self._wiring.fallbacks))

    async def _watch_fallbacks(self) -> None:
        """Say in the log when a fallback signs, and when it does no more."""
        watch = fallback.Watch()
        while True:
            await asyncio.sleep(FALLBACK_LOOK)
            if not self._wiring.fallbacks or self._guard is None:
                continue
            edge = await self._workers.edge_status()
            try:
                guard = await self._guard.control.status()
            except UnlatchError:
                continue  # the end of guard is seen by who waits for it
            # An edge that does not answer says nothing of fallbacks.
            for event, facts in watch.changes(self._describe_keys(edge, guard)) if edge else ():
                log(event, **facts)

    async def _watch_signatures(self) -> None:
        """Say loudly when guard signs more than handshakes and connections explain."""
        while True:
            await signature_watch.look(self._anomalies, self._workers, self._guard)
            await asyncio.sleep(signature_watch.LOOK_SECONDS)

    def _weaker(self, children: dict[str, Any]) -> list[str]:
        """What this system could not give guard and the configuration does not accept, in words."""
        missing = children.get("guard", {}).get("memory", {}).get("weaker", [])
        return [one["message"] for one in missing if one["name"] not in self._config.guard.accept]

    def _set_state(self, state: str, **fields: Any) -> None:
        if state != self.state or fields:
            self.state = state
            log(state, **fields)
        if state == "locked":
            notify("STATUS=locked")
