"""Guard's self-test: throw-away keys of each kind, loaded, re-shared, used and verified under guard's own filter."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from unlatch.errors import ConfigError

SECONDS: Final = 30.0
_REINSTALL: Final = "install unlatch again: pip install --force-reinstall unlatch; then try it alone: "
_HINTS: Final = {
    "memfd_secret": "Linux 6.5 or later, or the kernel parameter secretmem.enable=1; in a container, a seccomp profile that allows memfd_secret",
    "keyring": "let the seccomp profile of the container allow add_key and keyctl",
    "all_locked": "LimitMEMLOCK=infinity in the unit, or a start as root",
    "landlock": "Linux 5.13 or later, with landlock among the kernel's lsm=",
    "own_user": "start the proxy as root: guard then becomes a user of its own",
}


def self_test(program: Path, *, require: Collection[str] = (), accept: Collection[str] = ()) -> Iterator[str]:
    """Run it; one line for the pass and one for each protection that this host lacks.

    Args:
        program: guard.
        require: protections of `guard.require`.
        accept: those of `guard.accept`, which are not told.

    Raises:
        ConfigError: it failed, did not end, said nothing that makes sense, or a required protection is missing.
    """
    memory = _run(program)
    missing = {str(one["name"]): str(one["message"]) for one in memory["weaker"]}
    if os.getuid() == 0:
        # The self-test runs as who calls; the supervisor gives guard a user of its own.
        missing.pop("own_user", None)
    yield f"guard: self-test passed under its system call filter, shares in {memory['shares']}, root in {memory['root']}"
    for name, message in missing.items():
        if name in require:
            raise ConfigError(
                f"this host cannot give what guard.require names: {message} ({name})", hint=_HINTS.get(name)
            )
        if name not in accept:
            yield f"weaker: {message} ({name}); {_HINTS.get(name, 'see docs/guard.md')}"


def _run(program: Path) -> dict[str, Any]:
    command = f"{program} --self-test"
    try:
        result = subprocess.run(
            [program, "--self-test"], capture_output=True, timeout=SECONDS, check=False, env={}
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"guard's self-test did not end within {SECONDS:.0f} s, {program}") from error
    except OSError as error:
        raise ConfigError(
            f"guard's self-test did not start: {error.strerror}, {program}", hint=_REINSTALL + command
        ) from error
    if result.returncode != 0:
        last = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        how = f"signal {-result.returncode}" if result.returncode < 0 else f"exit code {result.returncode}"
        raise ConfigError(
            f"guard's self-test failed: {last or how}, {program}",
            hint=f"keep the version before; run `{command}` and see docs/guard.md, what a host has to offer",
        )
    try:
        said = json.loads(result.stdout)
        memory = dict(said["memory"])
        if said["ok"] is not True or not {"weaker", "shares", "root"} <= memory.keys():
            raise ValueError("not a report")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"guard's self-test ended without a report, {program}", hint=_REINSTALL + command
        ) from error
    return memory
