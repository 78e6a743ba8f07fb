"""Finds the hardware, uses the PIN, and finds it again when it went away; one thread of a custodian.

States: starting → need-pin → ready, with lost (looked for again and again), pin-wrong and pin-blocked (a person must
act: no PIN of the same generation is tried again) and broken (the configuration is wrong for this machine).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
"""A token that is back must serve within 2 s; one that comes and goes is not asked more often than this."""
CALM_SECONDS = 1.0
"""How long signatures must go well until the last trouble is no longer told."""
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
    epoch: int = 0
    """Grows whenever the module was finished. A signer of an older epoch is not closed: its session's number may be
    another one's by now."""


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

    def __init__(
        self,
        backend: Backend,
        *,
        tell: Callable[[Snapshot], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.door = Door()
        self.now = Snapshot("starting", "", {}, (), 0)
        self.busy_since: float | None = None
        """Since when it has been at work, which it is inside the module."""
        self._backend = backend
        self._tell, self._clock = tell, clock
        self._epoch = 0
        self._find_after = self._look_up_after = clock()
        self._why_lost = ""
        self._trouble, self._trouble_at = "", 0.0
        self._wishes: queue.SimpleQueue[Login | Refresh | None] = queue.SimpleQueue()
        self._refused_generation: int | None = None
        self._agreed: dict[int, PublicKey] = {}
        self._lost = threading.Event()
        self._untold: list[Snapshot] = []

    def wish(self, wish: Login | Refresh) -> None:
        """Hand over something to do."""
        self._wishes.put(wish)

    def lost(self, why: str) -> None:
        """Say that the hardware did not answer."""
        if not self._lost.is_set():
            self._why_lost = why
            self._lost.set()
            self._wishes.put(None)

    def troubled(self, why: str, *, look_up: bool = True) -> None:
        """Say that a signature failed although the hardware answers.

        Args:
            why: for people.
            look_up: whether the keys may have changed.
        """
        self._trouble_at = self._clock()
        if self._trouble != why or (look_up and self._trouble_at >= self._look_up_after):
            self._trouble = why
            self.wish(Refresh(agree=False, done=lambda _: None))

    def well(self) -> None:
        """Say that a signature was made."""
        if self._trouble and self._clock() > self._trouble_at + CALM_SECONDS:
            self._trouble = ""
            self.wish(Refresh(agree=False, done=lambda _: None))

    def finish(self) -> None:
        """Let go of the hardware before the process ends; a raw TPM would keep our objects."""
        if self.door.shut(FAREWELL_SECONDS):
            with suppress(UnlatchError):
                self._backend.stop()

    def run(self) -> None:
        """Work for ever."""
        with self._at_work():
            self._find()
        while True:
            wait = PROBE_SECONDS
            if self.now.state == "lost":
                wait = max(0.0, self._find_after - self._clock())
            try:
                wish = self._wishes.get(timeout=wait)
            except queue.Empty:
                wish = None
            with self._at_work():
                match wish:
                    case Login():
                        self._login(wish)
                    case Refresh():
                        self._refresh(wish)
                    case None:
                        self._look()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self.busy_since = self._clock()
        try:
            yield
        finally:
            self.busy_since = None

    def _look(self) -> None:
        if self.now.state not in ("ready", "need-pin", "lost"):
            return
        try:
            if self._lost.is_set() or self.now.state == "lost":
                raise UnavailableError(self._why_lost or "the hardware did not answer")
            self._backend.probe()
        except UnlatchError as error:
            if self.now.state != "lost":
                self._set("lost", str(error))
            if self._clock() >= self._find_after:
                self._find()

    def _find(self) -> None:
        """Start the backend, from nothing or again."""
        if not self.door.shut(QUIET_SECONDS):
            return  # somebody hangs inside: the watchdog ends the process
        self._find_after = self._clock() + RETRY_SECONDS
        self._epoch += 1
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
                self._set("need-pin", "")
            else:
                self._set_keys()
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
        self._look_up_after = self._clock() + RETRY_SECONDS
        if self.now.state == "ready":
            self._set_keys()
        wish.done(self._verdict())

    def _set_keys(self) -> None:
        try:
            found = [self._agreed_or_missing(one) for one in self._backend.find_keys()]
        except UnlatchError as error:
            self._set("lost", str(error))
            return
        keys = {one.id: one for one in found if isinstance(one, Key)}
        missing = tuple(one for one in found if isinstance(one, Missing))
        self._set("ready", self._trouble, keys=keys, missing=missing)

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
    ) -> None:
        before = self.now
        self.now = Snapshot(state, reason, keys or {}, missing, before.generation + 1, self._epoch)
        if (before.state, before.reason) != (state, reason) or state == "ready":
            self._untold.append(self.now)
        if not self.door.is_shut:
            self._tell_all()

    def _tell_all(self) -> None:
        """Tell what changed, once the door is open: who hears "ready" may ask at once."""
        while self._untold:
            self._tell(self._untold.pop(0))
