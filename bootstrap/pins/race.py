"""Asking several pins at once, each with its own time-out.

A thread that waits for a server cannot be stopped from outside: it is a daemon, its late answer is dropped, and the
process that unlocks ends soon after.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What one task gave: a value, or the exception that ended it."""

    index: int
    value: T | None
    error: BaseException | None


def in_parallel(tasks: Sequence[Callable[[], T]]) -> Iterator[Outcome[T]]:
    """Run every task in a thread of its own and give outcomes in the order in which they come."""
    outcomes: queue.SimpleQueue[Outcome[T]] = queue.SimpleQueue()
    for index, task in enumerate(tasks):
        threading.Thread(target=_run, args=(index, task, outcomes), daemon=True).start()
    for _ in tasks:
        yield outcomes.get()


def within(seconds: float | None, task: Callable[[], T]) -> T:
    """Run one task and wait at most `seconds` (None: as long as it takes).

    Raises:
        TimeoutError: no result in time.
    """
    if seconds is None:
        return task()
    outcomes: queue.SimpleQueue[Outcome[T]] = queue.SimpleQueue()
    threading.Thread(target=_run, args=(0, task, outcomes), daemon=True).start()
    try:
        outcome = outcomes.get(timeout=seconds)
    except queue.Empty as error:
        raise TimeoutError from error
    if outcome.error is not None:
        raise outcome.error
    return outcome.value  # type: ignore[return-value]  # a task without an error gave its value


def _run(index: int, task: Callable[[], T], outcomes: queue.SimpleQueue[Outcome[T]]) -> None:
    try:
        outcome = Outcome(index, task(), None)
    except BaseException as error:  # noqa: BLE001 # handed to the thread that asked, which raises it
        outcome = Outcome(index, None, error)
    outcomes.put(outcome)
