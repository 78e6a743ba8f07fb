"""What a person sees while a gate is asked: one line with the code, then one line for each change."""

from __future__ import annotations

import sys
import time

from unlatch.bootstrap.approval.client import Event, Waiting


def show(event: Event) -> None:
    """Write an event to standard error at once.

    This is the only place that ever shows the code: a journal that keeps this line keeps the code.
    """
    text = waiting_line(event) if isinstance(event, Waiting) else event.text
    sys.stderr.write(f"unlatch: {text}\n")
    sys.stderr.flush()


def waiting_line(event: Waiting) -> str:
    """Give the line that asks for an operator; the hour is this host's."""
    expires = time.strftime("%H:%M", time.localtime(event.expires))
    code = f"code {event.code}, " if event.code else ""
    return f"waiting: {event.workload} needs approval. {code}card {event.card}, expires {expires}"
