"""Keyholder's process: takes its socket, has its master key opened, confines itself, answers until the socket ends.

Started as ``python -m unlatch.gate.keyholder_main --dir DIR --fd N --origin URL --people URL``. Exit codes: 0 the
socket ended, 1 a frame that is none or a fault of its own, 21 the folder is damaged or in use; else that of the
hardware which does not open the master key (15, 19: it may later).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import secrets
import socket
import sys
import time
from pathlib import Path

from jwcrypto import jwk, jws  # noqa: F401 - loaded before the file system is closed

from unlatch.errors import ConfigError, UnlatchError
from unlatch.gate import wire
from unlatch.gate.confine import confine
from unlatch.gate.keyholder import Keyholder
from unlatch.gate.master import needs_child
from unlatch.gate.unwrap import open_in_child
from unlatch.memguard.posture import environment


def serve(channel: socket.socket, keyholder: Keyholder) -> None:
    """Answer questions until the other end closes.

    Raises:
        WireError: a frame that is none.
    """
    with channel.makefile("rb") as stream:
        while head := stream.read(wire.LENGTH_BYTES):
            length = wire.frame_length(head)
            body = stream.read(length)
            if len(body) != length:
                raise wire.WireError("a frame that is cut short")
            channel.sendall(wire.frame(keyholder.answer(wire.read_frame(body))))


def lock_folder(folder: Path) -> int:
    """Take the folder for this process; the lock ends with it.

    Raises:
        ConfigError: another keyholder has it, or it is no gate's.
    """
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{folder} is no gate's folder: {error.strerror}", hint="unlatch gate init DIR"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(
            f"{folder} is in use by another process", hint="is the gate running already?"
        ) from error
    return descriptor


def main(arguments: list[str] | None = None) -> int:
    """Run and give the exit code."""
    environment.require()
    parser = argparse.ArgumentParser(prog="unlatch-keyholder")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--origin", required=True)
    parser.add_argument("--people", required=True)
    options = parser.parse_args(arguments)
    os.umask(0o077)
    folder = options.dir / "keyholder"
    try:
        lock_folder(folder)
        with socket.socket(fileno=options.fd) as channel:
            # A decider that was killed leaves no pending byte: the socket just ends, and so does this process.
            # What needs hardware is opened first: no library of it, no device and no PIN is left within reach.
            master = open_in_child(folder) if needs_child(folder) else None
            measures = confine(folder)
            keyholder = Keyholder(
                folder,
                origin=options.origin,
                people=options.people,
                now=time.time,
                random_bytes=secrets.token_bytes,
                master=master,
            )
            del master
            _log("started", **measures)
            serve(channel, keyholder)
    except UnlatchError as error:
        _log("failed", message=str(error), hint=error.hint)
        return error.exit_code
    except OSError as error:
        _log("failed", message=error.strerror)
        return 1
    return 0


def _log(event: str, **fields: object) -> None:
    record = {"time": round(time.time(), 3), "process": "keyholder", "event": event, **fields}
    print(json.dumps(record), file=sys.stderr, flush=True)  # noqa: T201 - the log


if __name__ == "__main__":
    sys.exit(main())
