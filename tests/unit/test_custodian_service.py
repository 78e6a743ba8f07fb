"""What a custodian does when its own code fails: it says so, and ends, for the supervisor to start another."""

from __future__ import annotations

import json
import queue
import socket
import threading
from typing import Any

from unlatch.memguard.custodian.backend import Key, Missing, Signer
from unlatch.memguard.custodian.page import LockedPage
from unlatch.memguard.custodian.protocol import Message, Operation
from unlatch.memguard.custodian.serve import HUNG, Limits, Service

SECONDS = 10


class Unforeseen:
    """Hardware whose library fails in a way that nothing declares."""

    workers = 1
    needs_pin = False

    def start(self) -> None:
        raise LookupError("not told to anybody")

    def login(self, pin: LockedPage, size: int) -> None:
        raise AssertionError

    def find_keys(self) -> list[Key | Missing]:
        return []

    def signer(self) -> Signer:
        raise AssertionError

    def probe(self) -> None:
        """Be there."""

    def stop(self) -> None:
        """Do nothing."""


def test_thread_that_fails_ends_the_custodian_and_tells_why_without_details() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ended: queue.Queue[int] = queue.Queue()
    service = Service(theirs, Unforeseen(), limits=Limits(), facts={}, end=ended.put)
    thread = threading.Thread(target=service.run)
    with theirs, ours:
        ours.settimeout(SECONDS)
        thread.start()
        event = Message.decode(ours.recv(4096))
        code = ended.get(timeout=SECONDS)
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(SECONDS)
    told: dict[str, Any] = json.loads(bytes(event.payload))

    assert event.operation == Operation.EVENT
    assert told == {"state": "lost", "reason": "mender failed: LookupError: starting anew"}
    assert code == HUNG
