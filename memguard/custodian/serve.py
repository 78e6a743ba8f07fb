"""A custodian's service: takes guard's datagrams, has workers sign, answers in time.

Rule 1: guard always gets an answer within the deadline, whatever the hardware does.
Rule 2: the queue is bounded; what does not fit is "busy" at once.
Rule 3: a module that hangs for long takes this process with it, and nothing else: the supervisor starts another.
Rule 4: every message is checked as guard checked it, and every signature before it leaves.
"""

from __future__ import annotations

import json
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from unlatch.errors import RefusedError, UnlatchError
from unlatch.memguard.custodian import handshake, protocol, signatures
from unlatch.memguard.custodian.backend import Backend, Key, Signer
from unlatch.memguard.custodian.door import DoorShutError
from unlatch.memguard.custodian.handshake import Method
from unlatch.memguard.custodian.ledger import Ledger
from unlatch.memguard.custodian.mender import REFUSALS, Login, Mender, Refresh, Snapshot
from unlatch.memguard.custodian.page import LockedPage
from unlatch.memguard.custodian.protocol import MalformedError, Message, Operation, Refusal

HUNG = 75
"""EX_TEMPFAIL: start me again."""
IDLE_SECONDS = 0.5
LONGEST_WAIT = 1.0
"""Seconds until it is looked whether something hangs."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the service."""

    queue: int = 64
    deadline: float = 2.0
    """Seconds from a question to its answer. Where each of several sessions is inside the module and none came back for
    as long, this process ends: nothing would be answered in time."""
    hang: float = 10.0
    """Seconds inside one call of the module before this process ends; finding the hardware may take three times this."""


@dataclass(slots=True)
class Job:
    """A signature to make."""

    asked: Message
    method: Method
    message: bytes
    key: Key
    since: float
    answered: bool = False


@dataclass(slots=True)
class Desk:
    """Which questions are open; whoever answers first, answers."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    open: dict[int, Job] = field(default_factory=dict)

    def take(self, job: Job) -> bool:
        """Claim the right to answer."""
        with self.lock:
            if job.answered:
                return False
            job.answered = True
            self.open.pop(job.asked.request_id, None)
            return True


class Service:
    """One custodian."""

    def __init__(
        self,
        channel: socket.socket,
        backend: Backend,
        *,
        limits: Limits,
        facts: dict[str, Any],
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._channel, self._backend, self._limits, self._facts = channel, backend, limits, facts
        self._clock, self._end = clock, end
        self._mender = Mender(backend, tell=self._tell, clock=clock)
        self._jobs: queue.Queue[Job] = queue.Queue(limits.queue)
        self._desk = Desk()
        self._ledger = Ledger()
        self._busy: dict[int, float] = {}
        """By worker: since when it has been inside the module."""
        self._back_at = clock()
        """When a worker last came back from there."""

    def run(self) -> None:
        """Serve until guard closes the socket, or sends what is no message; then let go of the hardware."""
        try:
            self._serve()
        finally:
            self._mender.finish()

    def _serve(self) -> None:
        self._start("mender", self._mender.run)
        for number in range(max(self._backend.workers, 1)):
            self._start(f"worker-{number}", partial(self._work, number))
        page = LockedPage(protocol.MAX_BYTES + 1)
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while True:
            if poll.poll(self._patience()):
                size = self._channel.recv_into(page.view)
                if size == 0:
                    return
                try:
                    self._take(Message.decode(page.view[:size]))
                except MalformedError:
                    return
                finally:
                    page.wipe()
            self._enforce()

    def _start(self, name: str, work: Callable[[], None]) -> None:
        """Start a thread; one that fails as nobody foresaw takes the process with it, for another to be started."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - nothing goes on as if it were still there
                reason = f"{name} failed: {type(error).__name__}: starting anew"
                self._send(protocol.event({"state": "lost", "reason": reason}))
                self._end(HUNG)

        threading.Thread(target=run, name=name, daemon=True).start()

    def _patience(self) -> int:
        """Milliseconds until something is too late, or may be."""
        with self._desk.lock:
            times = [job.since + self._limits.deadline for job in self._desk.open.values()]
        now = self._clock()
        times += [*self._ends(), now + LONGEST_WAIT]
        return max(0, round((min(times) - now) * 1000) + 1)

    def _ends(self) -> list[float]:
        """When this process ends, unless the module answers."""
        busy = list(self._busy.values())
        times = [since + self._limits.hang for since in busy]
        if 1 < len(busy) == self._backend.workers:
            times.append(max(self._back_at, *busy) + self._limits.deadline)
        finding = self._mender.busy_since
        return times if finding is None else [*times, finding + 3 * self._limits.hang]

    def _enforce(self) -> None:
        now = self._clock()
        with self._desk.lock:
            late = [job for job in self._desk.open.values() if now >= job.since + self._limits.deadline]
        for job in late:
            self._refuse(job, Refusal.TOO_SLOW)
        if late:
            self._mender.troubled(f"no signature within {self._limits.deadline:g} s", look_up=False)
        if any(now >= end for end in self._ends()):
            self._send(protocol.event({"state": "lost", "reason": "the module hangs: starting anew"}))
            self._end(HUNG)

    def _take(self, asked: Message) -> None:
        match asked.operation:
            case Operation.SIGN:
                self._take_sign(asked)
            case Operation.PIN:
                self._take_pin(asked)
            case Operation.KEYS:
                self._mender.wish(Refresh(agree=True, done=self._answer_keys(asked)))
            case Operation.STATUS:
                self._send(protocol.reply(asked, json.dumps(self._status()).encode()))
            case _:
                raise MalformedError

    def _take_sign(self, asked: Message) -> None:
        scheme, message = protocol.split_sign(asked.payload)
        asked = Message(asked.operation, asked.key, asked.request_id, b"")
        now = self._mender.now
        refusal = _refusal_of(now, asked.key)
        if refusal is not None:
            self._refuse_now(asked, refusal)
            return
        key = now.keys[asked.key]
        try:
            version = handshake.check(message)
            if scheme not in key.schemes:
                raise handshake.SchemeError
            method = handshake.method(key.algorithm, scheme, version)
        except handshake.NotAHandshakeError:
            self._refuse_now(asked, Refusal.NOT_A_HANDSHAKE)
            return
        except handshake.SchemeError:
            self._refuse_now(asked, Refusal.SCHEME)
            return
        job = Job(asked, method, message, key, self._clock())
        with self._desk.lock:
            if asked.request_id in self._desk.open:
                raise MalformedError
            self._desk.open[asked.request_id] = job
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._refuse(job, Refusal.BUSY)

    def _take_pin(self, asked: Message) -> None:
        size = len(asked.payload)
        if not 0 < size <= protocol.MAX_PIN_BYTES:
            raise MalformedError
        page = LockedPage(size)
        page.view[:] = asked.payload
        quiet = Message(asked.operation, asked.key, asked.request_id, b"")

        def done(refusal: Refusal | None) -> None:
            self._send(protocol.reply(quiet) if refusal is None else protocol.refusal(quiet, refusal))

        self._mender.wish(Login(page, size, asked.key, done))

    def _answer_keys(self, asked: Message) -> Callable[[Refusal | None], None]:
        quiet = Message(asked.operation, asked.key, asked.request_id, b"")

        def done(refusal: Refusal | None) -> None:
            if refusal is not None:
                self._send(protocol.refusal(quiet, refusal))
            else:
                self._send(protocol.reply(quiet, json.dumps(describe(self._mender.now)).encode()))

        return done

    def _work(self, number: int) -> None:
        """Sign for ever, with a signer that is made anew when the hardware was found anew."""
        signer: Signer | None = None
        generation = epoch = -1
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                signer, generation = self._rest(signer, generation)
                job = self._jobs.get()
            if job.answered:
                continue
            self._busy[number] = self._clock()
            try:
                with self._mender.door.passing():
                    now = self._mender.now
                    if generation != now.generation:
                        if signer is not None and epoch == now.epoch:
                            signer.close()
                        signer = None
                        signer, generation, epoch = self._backend.signer(), now.generation, now.epoch
                    assert signer is not None
                    self._sign(job, signer, now)
            except UnlatchError as error:
                self._fail(job, error)
            finally:
                self._back_at = self._clock()
                self._busy.pop(number, None)

    def _rest(self, signer: Signer | None, generation: int) -> tuple[Signer | None, int]:
        """Give back what others wait for."""
        idle = getattr(self._backend, "idle", None)
        if idle is not None:
            idle()
        return signer, generation

    def _sign(self, job: Job, signer: Signer, now: Snapshot) -> None:
        key = now.keys.get(job.key.id)
        if key is None or key.public != job.key.public:
            self._refuse(job, Refusal.UNKNOWN_KEY)
            return
        signature = signer.sign(key, job.method, job.message)
        try:
            signatures.verify(key.public, job.method, job.message, signature)
        except signatures.WrongSignatureError:
            self._ledger.count("wrong signatures")
            # Rotated under its name, or broken: what is there now must be looked at anew.
            self._mender.troubled("a signature was wrong, and kept back")
            self._refuse(job, Refusal.INTERNAL)
            return
        self._mender.well()
        if self._desk.take(job):
            self._ledger.signed(key.id, self._clock() - job.since)
            self._send(protocol.reply(job.asked, signature))

    def _fail(self, job: Job, error: UnlatchError) -> None:
        if isinstance(error, DoorShutError):
            self._refuse(job, _refusal_of(self._mender.now, job.key.id) or Refusal.LOST)
        elif isinstance(error, RefusedError):
            need_pin = getattr(error, "fault", "") == "need-pin"
            (self._mender.lost if need_pin else self._mender.troubled)(str(error))
            self._refuse(job, Refusal.NEED_PIN if need_pin else Refusal.INTERNAL)
        else:
            self._mender.lost(str(error))
            self._refuse(job, Refusal.LOST)

    def _refuse(self, job: Job, reason: Refusal) -> None:
        if self._desk.take(job):
            self._refuse_now(job.asked, reason)

    def _refuse_now(self, asked: Message, reason: Refusal) -> None:
        self._ledger.count(f"refused: {reason.name.lower()}")
        self._send(protocol.refusal(asked, reason))

    def _status(self) -> dict[str, Any]:
        with self._desk.lock:
            waiting = len(self._desk.open)
        return {
            **describe(self._mender.now),
            **self._ledger.facts(),
            "waiting": waiting,
            "queue": self._limits.queue,
            "workers": self._backend.workers,
            "posture": self._facts,
        }

    def _tell(self, now: Snapshot) -> None:
        self._send(protocol.event({"state": now.state, "reason": now.reason}))

    def _send(self, data: bytes) -> None:
        try:
            self._channel.send(data)
        except OSError:
            # Guard is gone: the receiving side sees it too and ends the process.
            self._ledger.count("unsent")


def describe(now: Snapshot) -> dict[str, Any]:
    """State and keys, for guard and `status`."""
    from unlatch.memguard.custodian.token_keys import spki

    keys = [
        {
            "id": key.id,
            "name": key.name,
            "algorithm": key.algorithm,
            "schemes": list(key.schemes),
            "spki": spki(key.public).hex(),
        }
        for key in now.keys.values()
    ]
    missing = [{"id": one.id, "name": one.name, "reason": one.reason} for one in now.missing]
    return {"state": now.state, "reason": now.reason, "found": keys, "missing": missing}


def _refusal_of(now: Snapshot, key: int) -> Refusal | None:
    if now.state != "ready":
        return REFUSALS[now.state]
    return None if key in now.keys else Refusal.UNKNOWN_KEY
