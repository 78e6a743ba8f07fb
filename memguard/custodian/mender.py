"""Finds the hardware, uses the PIN, and finds it again when it went away; one thread of a custodian.

States: starting → need-pin → ready, with lost (looked for again and again), pin-wrong and pin-blocked (a person must
act: no PIN of the same generation is tried again) and broken (the configuration is wrong for this machine).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from unlatch.errors import ConfigError, UnavailableError, UnlatchError
from unlatch.memguard.custodian.backend import Backend, Key, Missing
from unlatch.memguard.custodian.cryptoki import TokenRefusedError
from unlatch.memguard.custodian.door import Door
from unlatch.memguard.custodian.page import LockedPage
from unlatch.memguard.custodian.protocol import Refusal
from unlatch.memguard.custodian.signatures import PublicKey

State = Literal["starting", "need-pin", "ready", "lost", "pin-wrong", "pin-blocked", "broken"]
REFUSALS: dict[State, Refusal] = {
    "starting": Refusal.LOST,
    "need-pin": Refusal.NEED_PIN,
    "lost": Refusal.LOST,
    "pin-wrong": Refusal.PIN_WRONG,
    "pin-blocked": Refusal.PIN_BLOCKED,
    "broken": Refusal.INTERNAL,
}
RETRY_SECONDS = 0.5
"""A token that is back must serve within 2 s."""
PROBE_SECONDS = 5.0
FAREWELL_SECONDS = 1.0
QUIET_SECONDS = 5.0
"""How long workers may take to leave before the module is started again; a hang ends the process instead."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What workers see; replaced whole."""

    state: State
    reason: str
    keys: dict[int, Key]
    missing: tuple[Missing, ...]
    generation: int
    """Grows whenever signers must be made anew."""
    restarted: bool = False
    """Whether older signers belong to a module that was finished: they must not be closed then."""


@dataclass(frozen=True, slots=True)
class Login:
    """A PIN to use; the page is wiped by whoever takes it."""

    page: LockedPage
    size: int
    generation: int
    done: Callable[[Refusal | None], None]


@dataclass(frozen=True, slots=True)
class Refresh:
    """Look the keys up again."""

    agree: bool
    """Whether guard asks, which compares with certificates: a key that was replaced counts from then on."""
    done: Callable[[Refusal | None], None]


class Mender:
    """Owns the backend, but for the signers."""

    def __init__(self, backend: Backend, *, tell: Callable[[Snapshot], None]) -> None:
        self.door = Door()
        self.now = Snapshot("starting", "", {}, (), 0)
        self._backend = backend
        self._tell = tell
        self._wishes: queue.SimpleQueue[Login | Refresh | None] = queue.SimpleQueue()
        self._refused_generation: int | None = None
        self._agreed: dict[int, PublicKey] = {}
        self._lost = threading.Event()
        self._untold: list[Snapshot] = []

    def wish(self, wish: Login | Refresh) -> None:
        """Hand over something to do."""
        self._wishes.put(wish)

    def lost(self) -> None:
        """Say that the hardware did not answer."""
        if not self._lost.is_set():
            self._lost.set()
            self._wishes.put(None)

    def finish(self) -> None:
        """Let go of the hardware before the process ends; a raw TPM would keep our objects."""
        if self.door.shut(FAREWELL_SECONDS):
            with suppress(UnlatchError):
                self._backend.stop()

    def run(self) -> None:
        """Work for ever."""
        self._find()
        while True:
            wait = RETRY_SECONDS if self.now.state == "lost" else PROBE_SECONDS
            try:
                wish = self._wishes.get(timeout=wait)
            except queue.Empty:
                wish = None
            match wish:
                case Login():
                    self._login(wish)
                case Refresh():
                    self._refresh(wish)
                case None:
                    self._look()

    def _look(self) -> None:
        if self.now.state not in ("ready", "need-pin", "lost"):
            return
        try:
            if self._lost.is_set() or self.now.state == "lost":
                raise UnavailableError("the hardware did not answer")
            self._backend.probe()
        except UnlatchError as error:
            if self.now.state != "lost":
                self._set("lost", str(error))
            self._find()

    def _find(self) -> None:
        """Start the backend, from nothing or again."""
        if not self.door.shut(QUIET_SECONDS):
            return  # somebody hangs inside: the watchdog ends the process
        try:
            self._backend.stop()
            self._backend.start()
        except ConfigError as error:
            self._set("broken", str(error))
        except UnlatchError as error:
            self._set("lost", str(error))
        else:
            self._lost.clear()
            if self._backend.needs_pin:
                self._set("need-pin", "", restarted=True)
            else:
                self._set_keys(restarted=True)
        finally:
            self.door.open()
            self._tell_all()

    def _login(self, wish: Login) -> None:
        try:
            wish.done(self._try(wish))
        finally:
            wish.page.close()

    def _try(self, wish: Login) -> Refusal | None:
        if self.now.state == "ready":
            return None
        if wish.generation == self._refused_generation or self.now.state == "pin-blocked":
            return (
                REFUSALS[self.now.state]
                if self.now.state in ("pin-wrong", "pin-blocked")
                else Refusal.PIN_WRONG
            )
        if self.now.state not in ("need-pin", "pin-wrong"):
            return REFUSALS[self.now.state]
        try:
            self._backend.login(wish.page, wish.size)
        except TokenRefusedError as error:
            self._refused_generation = wish.generation
            self._set("pin-blocked" if error.fault == "pin-blocked" else "pin-wrong", str(error))
            return REFUSALS[self.now.state]
        except UnavailableError as error:
            self._set("lost", str(error))
            return Refusal.LOST
        except ConfigError as error:
            self._set("broken", str(error))
            return Refusal.INTERNAL
        self._set_keys()
        return self._verdict()

    def _verdict(self) -> Refusal | None:
        return None if self.now.state == "ready" else REFUSALS[self.now.state]

    def _refresh(self, wish: Refresh) -> None:
        if wish.agree:
            self._agreed.clear()
        if self.now.state == "ready":
            self._set_keys()
        wish.done(self._verdict())

    def _set_keys(self, *, restarted: bool = False) -> None:
        try:
            found = [self._agreed_or_missing(one) for one in self._backend.find_keys()]
        except UnlatchError as error:
            self._set("lost", str(error))
            return
        keys = {one.id: one for one in found if isinstance(one, Key)}
        missing = tuple(one for one in found if isinstance(one, Missing))
        self._set("ready", "", keys=keys, missing=missing, restarted=restarted)

    def _agreed_or_missing(self, found: Key | Missing) -> Key | Missing:
        """A key that was replaced under its name signs only after guard looked at it and its certificate."""
        if isinstance(found, Missing) or self._agreed.setdefault(found.id, found.public) == found.public:
            return found
        return Missing(
            found.id, found.name, "another key stands under this name now: renew its certificate and reload"
        )

    def _set(
        self,
        state: State,
        reason: str,
        *,
        keys: dict[int, Key] | None = None,
        missing: tuple[Missing, ...] = (),
        restarted: bool = False,
    ) -> None:
        before = self.now
        self.now = Snapshot(state, reason, keys or {}, missing, before.generation + 1, restarted)
        if (before.state, before.reason) != (state, reason) or state == "ready":
            self._untold.append(self.now)
        if not self.door.is_shut:
            self._tell_all()

    def _tell_all(self) -> None:
        """Tell what changed, once the door is open: who hears "ready" may ask at once."""
        while self._untold:
            self._tell(self._untold.pop(0))
