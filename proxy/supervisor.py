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
import contextlib
import os
import random
import signal
import socket
import uuid
from pathlib import Path
from typing import Any

from unlatch.errors import ConfigError, UnavailableError, UnlatchError
from unlatch.memguard.control import GuardControl, guard_program
from unlatch.proxy import config_file
from unlatch.proxy.child import Child
from unlatch.proxy.config_file import LoadedConfig
from unlatch.proxy.door import Door
from unlatch.proxy.log import log
from unlatch.proxy.notify import notify
from unlatch.proxy.unlocking import Outcome, unlock
from unlatch.proxy.wiring import KeyInfo, RouteIds, Wiring, read_wiring

# Exit codes after which asking again may help (docs/operations.md).
RETRY_CODES = frozenset({1, 11, 15, 19})
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
LONGEST_RESTART_PAUSE = 5.0


class Guard:
    """The guard process and its control connection."""

    def __init__(self, process: asyncio.subprocess.Process, control: GuardControl) -> None:
        self.process = process
        self.control = control

    @classmethod
    async def start(cls) -> Guard:
        """Start guard, locked and empty."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    str(guard_program()),
                    *("--control-fd", str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                )
            except OSError as error:
                ours.close()
                raise ConfigError(f"cannot start {guard_program()}: {error.strerror}") from error
        guard = cls(process, GuardControl(ours))
        await guard.control.status()
        return guard

    async def end(self) -> None:
        """End guard; what it held is wiped."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            await self.process.wait()
        self.control.close()


class Supervisor:
    """Everything between `unlatch serve` and its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids = RouteIds()
        self._wiring = read_wiring(config_file.load(path), self._ids)
        self._workers = self._config.workers or min(os.cpu_count() or 1, 16)
        self._node = uuid.uuid4().hex
        self._door = Door(
            [address for one in self._config.listeners for address in one.bind], workers=self._workers
        )
        self._guard: Guard | None = None
        self._edge: Child | None = None
        self._egress: Child | None = None
        self._guard_sockets: dict[str, list[socket.socket]] = {"edge": [], "egress": []}
        self._between: socket.socket | None = None
        self._keys: dict[str, KeyInfo] = {}
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
                    self._guard = await Guard.start()
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
        outcome = await unlock(job, self._guard.control, on_event=self._on_unlock_event)
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
        await self._configure(self._wiring)
        self._open_guard_sockets()
        if self._wiring.needs_egress:
            await self._start_egress()
        await self._start_edge()
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
        self._keys = {
            entry["name"]: KeyInfo(id=entry["id"], name=entry["name"], algorithm=entry["algorithm"])
            for entry in answer["keys"]
        }
        for warning in answer.get("warnings", []):
            log("warning", message=warning)

    def _open_guard_sockets(self) -> None:
        for sockets in self._guard_sockets.values():
            for one in sockets:
                one.close()
            sockets.clear()

    async def _guard_socket(self, role: str, **rights: Any) -> socket.socket:
        assert self._guard
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            await self._guard.control.worker(theirs.fileno(), role=role, **rights)
        return ours

    async def _start_edge(self) -> None:
        sockets = [
            await self._guard_socket(
                "edge",
                node=self._node,
                keys=self._wiring.key_ids(self._keys),
                rate=self._config.limits.signatures,
            )
            for _ in range(self._workers)
        ]
        self._replace_guard_sockets("edge", sockets)
        edge_end: socket.socket | None = None
        if self._egress is not None:
            edge_end, egress_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with egress_end:
                await self._egress.give("edge", egress_end.fileno())
            self._between = edge_end
        listening = [one for group in self._door.sockets.values() for one in group]
        given = [*sockets, *listening] + ([edge_end] if edge_end else [])
        self._edge = await Child.start(
            "edge", self._edge_config(self._wiring), [one.fileno() for one in given]
        )
        log("edge started", pid=self._edge.process.pid)

    def _edge_config(self, wiring: Wiring) -> dict[str, Any]:
        config = wiring.edge(self._keys)
        for listener in config["listeners"]:
            listener["sockets"] = [one.fileno() for one in self._door.sockets[listener["name"]]]
        return config | {
            "workers": self._workers,
            "node": self._node,
            "guard": [one.fileno() for one in self._guard_sockets["edge"]],
            "egress": self._between.fileno() if self._between else None,
        }

    async def _start_egress(self) -> None:
        one = await self._guard_socket("egress")
        self._replace_guard_sockets("egress", [one])
        edge_end, egress_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with egress_end:
            config = self._wiring.egress() | {"guard": [one.fileno()], "edge": egress_end.fileno()}
            self._egress = await Child.start("egress", config, [one.fileno(), egress_end.fileno()])
        if self._edge is not None:
            await self._edge.give("egress", edge_end.fileno())
        if self._between is not None:
            self._between.close()
        self._between = edge_end
        log("egress started", pid=self._egress.process.pid)

    def _replace_guard_sockets(self, role: str, sockets: list[socket.socket]) -> None:
        for one in self._guard_sockets[role]:
            one.close()
        self._guard_sockets[role] = sockets

    async def _serve(self) -> None:
        """Until guard dies or the proxy is locked again."""
        assert self._guard
        tasks = {
            "guard": asyncio.create_task(self._guard.process.wait()),
            "relock": asyncio.create_task(self._relock.wait()),
            "edge": asyncio.create_task(self._keep("edge")),
            "egress": asyncio.create_task(self._keep("egress")),
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
        pause = 0.05
        while True:
            child = self._edge if role == "edge" else self._egress
            if child is None:
                await asyncio.Event().wait()
                continue
            started = asyncio.get_running_loop().time()
            status = await child.process.wait()
            log(f"{role} died", status=status)
            if asyncio.get_running_loop().time() - started > 10:
                pause = 0.05
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_RESTART_PAUSE)
            async with self._changing:
                await child.kill()
                if role == "edge":
                    await self._start_edge()
                else:
                    await self._start_egress()

    async def _close_everything(self, drain: float) -> None:
        """Shut the door, end edge and egress, end guard: what it held is wiped with it."""
        self._door.shut()
        edge, egress, guard = self._edge, self._egress, self._guard
        self._edge = self._egress = self._guard = None
        if edge is not None:
            await (edge.drain(drain) if drain else edge.kill())
        if egress is not None:
            await egress.kill()
        if guard is not None:
            await guard.end()
        if self._between is not None:
            self._between.close()
            self._between = None
        self._open_guard_sockets()

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
        for name in ("workers", "admin", "unlock"):
            if getattr(before, name) != getattr(after, name):
                raise ConfigError(
                    f"{name} cannot change while the proxy runs",
                    hint="restart it: unlatch serve asks for approval again",
                )
        if [one.bind for one in before.listeners] != [one.bind for one in after.listeners]:
            raise ConfigError(
                "the addresses of listeners cannot change while the proxy runs", hint="restart the proxy"
            )
        async with self._changing:
            if self.state != "serving" or self._edge is None:
                self._wiring = wiring
                return [f"taken over; the proxy is {self.state}"]
            await self._configure(wiring)
            try:
                await self._hand_over(wiring)
            except UnlatchError:
                await self._configure(self._wiring)
                raise
            self._wiring = wiring
        log("reloaded", digest=wiring.loaded.digest)
        return ["reloaded"]

    async def _hand_over(self, wiring: Wiring) -> None:
        assert self._edge
        if not set(wiring.key_ids(self._keys)) <= set(self._wiring.key_ids(self._keys)):
            raise ConfigError(
                "a key that this start did not use cannot be added by reload",
                hint="restart the proxy to use it",
            )
        if wiring.needs_egress != self._wiring.needs_egress:
            raise ConfigError(
                "the first or last inject route cannot come or go by reload", hint="restart the proxy"
            )
        if self._egress is not None:
            one = self._guard_sockets["egress"][0]
            await self._egress.reload(wiring.egress() | {"guard": [one.fileno()], "edge": None})
        await self._edge.reload(self._edge_config(wiring))

    async def csr(self, name: str) -> str:
        """A certificate request for a sealed key, made and signed by guard from the sealed names."""
        if self._guard is None or self.state != "serving":
            raise UnavailableError(f"no key is open: the proxy is {self.state}", hint="unlatch status")
        return str(await self._guard.control.csr(name))

    async def status(self) -> dict[str, Any]:
        """What `unlatch status` shows."""
        children: dict[str, Any] = {}
        for role, child in (("edge", self._edge), ("egress", self._egress)):
            if child is not None:
                sockets = self._guard_sockets[role]
                children[role] = {"pid": child.process.pid, "guard": [one.fileno() for one in sockets]}
        if self._guard is not None:
            children["guard"] = {"pid": self._guard.process.pid}
            if self.state == "serving":
                children["guard"] |= await self._guard.control.status()
        failure = None
        if self.failure is not None:
            failure = {"code": self.failure.code, "message": self.failure.message, "hint": self.failure.hint}
        return {
            "state": self.state,
            "addresses": self.addresses,
            "card": self.card,
            "config": {"path": str(self._path), "digest": self.loaded.digest},
            "processes": children,
            "failure": failure,
        }

    def _set_state(self, state: str, **fields: Any) -> None:
        if state != self.state or fields:
            self.state = state
            log(state, **fields)
        if state == "locked":
            notify("STATUS=locked")
