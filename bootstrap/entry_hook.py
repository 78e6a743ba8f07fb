"""Runs a Python approval hook under the contract of every other hook (docs/hooks.md).

A hook is a function that a package names as an entry point in the group `unlatch.hooks`: it gets the facts and its
arguments, gives None or `{"reason": …, "claims": {…}}`, and raises `HookRefusedError` to say no. It runs in this
process, which ends before the first pin is asked.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points

from unlatch.errors import HookRefusedError

GROUP = "unlatch.hooks"
FAILED, REFUSED = 1, 10


def main() -> int:
    """Read the facts, run the named hook, write what it adds; gives the exit code of the contract."""
    name, *arguments = sys.argv[1:]
    found = tuple(entry_points(group=GROUP, name=name))
    if len(found) != 1:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        sys.stderr.write(f"{len(found)} packages name a hook {name!r} in the group {GROUP}; known: {known}\n")
        return FAILED
    facts = json.load(sys.stdin)
    try:
        answer = found[0].load()(facts, arguments)
    except HookRefusedError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return REFUSED
    if answer is not None:
        sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
