"""Opening a protected master key in a process of its own, which ends at once.

A PKCS#11 module and a TPM's library are foreign code, and a token wants its PIN: none of that belongs into keyholder, whose
process lives for ever and holds every key. Keyholder starts this one before it confines itself, and reads 32 bytes from a
pipe straight into locked memory.

Started as ``python -m unlatch.gate.unwrap DIR/keyholder FD``. Exit codes: 0, or the error's own, told as one JSON line
``{"message", "hint"}`` on standard error.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

from unlatch.errors import BusyError, ConfigError, RefusedError, UnavailableError, UnlatchError
from unlatch.gate.master import MASTER_BYTES, OPEN_SECONDS, open_master
from unlatch.memguard._native import Secret
from unlatch.memguard.posture import environment, process, seccomp

GRACE_SECONDS = 10.0
"""Python's own start, and a PIN's way."""


def open_in_child(folder: Path) -> Secret:
    """Open the master key of DIR/keyholder in a child.

    Raises:
        UnlatchError: as the child says.
    """
    read, write = os.pipe()
    try:
        try:
            child = subprocess.Popen(
                environment.command("unlatch.gate.unwrap", str(folder), str(write)),
                pass_fds=[write],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment.hard(environment.hardware_variables()),
            )
        finally:
            os.close(write)
        with child:
            if not select.select([read], [], [], OPEN_SECONDS + GRACE_SECONDS)[0]:
                child.kill()
                raise BusyError(
                    "the hardware that protects the master key does not answer",
                    hint="is another program using it?",
                )
            master = Secret.read_fd(read, MASTER_BYTES)
            assert child.stderr is not None
            told = child.stderr.read(64 * 1024)
        if child.returncode != 0:
            raise _error(told, code=child.returncode)
    finally:
        os.close(read)
    return master


def _error(told: bytes, *, code: int) -> UnlatchError:
    """The child's error. A class of ours with its exit code, so that whoever waits knows whether to try again."""
    try:
        facts = json.loads(told.splitlines()[-1])
        message, hint = str(facts["message"]), facts["hint"]
    except (ValueError, KeyError, IndexError, TypeError):
        return ConfigError(f"the process that opens the master key ended with {code}")
    return error_with_code(code, f"the master key does not open: {message}", hint=hint)


def error_with_code(code: int, message: str, *, hint: str | None) -> UnlatchError:
    """An error as another process of ours told it: its class says whether trying again may help."""
    kinds = {
        ConfigError.exit_code: ConfigError,
        UnavailableError.exit_code: UnavailableError,
        BusyError.exit_code: BusyError,
    }
    error = kinds.get(code, RefusedError)(message, hint=hint)
    error.exit_code = code
    return error


def main() -> None:
    """Open, hand over, end."""
    environment.require()
    folder, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    process.close_to_others()
    process.end_with_parent()
    if process.give_up_privileges():
        seccomp.refuse(
            [*seccomp.PROGRAMS, *seccomp.MEMORY_OF_OTHERS, *seccomp.KERNEL, *seccomp.KEYS, *seccomp.SERVING]
        )
    code = 0
    try:
        open_master(folder).write_fd(descriptor)
    except UnlatchError as error:
        print(json.dumps({"message": str(error), "hint": error.hint}), file=sys.stderr, flush=True)  # noqa: T201 - the log
        code = error.exit_code
    # A thread inside a module that hangs would keep this process.
    os._exit(code)


if __name__ == "__main__":
    main()
