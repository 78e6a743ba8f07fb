"""Starting a custodian, for the supervisor."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from typing import Any

from unlatch.errors import ConfigError
from unlatch.memguard.posture import environment

HUNG = 75
"""Exit code of a custodian whose module hung: start it again. After 21, do not."""


async def launch(config: Mapping[str, Any]) -> tuple[asyncio.subprocess.Process, socket.socket]:
    """Start a custodian; gives its process and guard's end of its socket, which the caller hands to guard.

    Args:
        config: one of `plan`'s.

    Raises:
        ConfigError: Python itself cannot be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, write = os.pipe()
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *environment.command("unlatch.memguard.custodian", str(read), str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[read, theirs.fileno()],
                env=environment.hard({"PATH": "/usr/bin:/bin"} | environment.hardware_variables()),
            )
    except OSError as error:
        ours.close()
        os.close(write)
        raise ConfigError(f"cannot start a custodian: {error.strerror}") from error
    finally:
        os.close(read)
    # A configuration of a few hundred keys is larger than a pipe.
    await asyncio.to_thread(_write, write, json.dumps(config).encode())
    return process, ours


def _write(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(data)
