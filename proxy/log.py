"""One JSON line for each step of the supervisor, on standard error."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime


def log(event: str, **fields: object) -> None:
    """Write `{"t", "process": "supervisor", "event", …}`. Never pass a secret, a point or a code."""
    moment = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"t": moment, "process": "supervisor", "event": event} | fields, ensure_ascii=False)
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
