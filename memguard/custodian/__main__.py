"""A custodian's process: ``python -m unlatch.memguard.custodian CONFIG_FD GUARD_FD``.

Exit codes: 0 guard closed the socket or SIGTERM came, and the hardware was let go; 21 the configuration is wrong; 75 the
module hung (start it again).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from types import FrameType

from unlatch.errors import ConfigError, UnlatchError
from unlatch.memguard.posture import environment

MAX_CONFIG_BYTES = 1 << 20


def main() -> int:
    """Run and give the exit code."""
    environment.require()
    try:
        config_fd, guard_fd = map(int, sys.argv[1:3])
        with os.fdopen(config_fd, "rb") as file:
            data = file.read(MAX_CONFIG_BYTES)
        channel = socket.socket(fileno=guard_fd)
    except (OSError, ValueError) as error:
        _say(ConfigError("a custodian is started by the supervisor, with two descriptors"))
        del error
        return ConfigError.exit_code
    try:
        with channel:
            signal.signal(signal.SIGTERM, _leave)
            serve(data, channel)
    except _LeaveError:
        pass
    except UnlatchError as error:
        _say(error)
        return error.exit_code
    # Threads inside a module cannot be stopped: they end with the process.
    os._exit(0)


def serve(data: bytes, channel: socket.socket) -> None:
    """Confine this process and answer guard until it closes the socket."""
    from unlatch.memguard.custodian.backend import Backend
    from unlatch.memguard.custodian.modules import find_module
    from unlatch.memguard.custodian.pkcs11 import Pkcs11Backend
    from unlatch.memguard.custodian.posture import confine
    from unlatch.memguard.custodian.serve import Service
    from unlatch.memguard.custodian.settings import Settings
    from unlatch.memguard.custodian.tpm2 import Tpm2Backend

    settings = Settings.parse(data)
    backend: Backend
    if settings.kind == "pkcs11":
        import pkcs11._pkcs11  # noqa: F401 # before the file system is closed

        path = find_module(settings.token, settings.module)
        backend = Pkcs11Backend(
            path,
            settings.token,
            list(settings.token_keys),
            sessions=settings.sessions,
            parameters=settings.parameters,
        )
    else:
        backend = Tpm2Backend(list(settings.tpm_keys), tcti=settings.tcti)
    facts = confine(settings) | {"hard_environment": environment.is_hard()}
    Service(channel, backend, limits=settings.limits, facts=facts).run()


class _LeaveError(Exception):
    """SIGTERM came."""


def _leave(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _LeaveError


def _say(error: UnlatchError) -> None:
    sys.stderr.write(f"unlatch-custodian: error: {error}\n")
    if error.hint:
        sys.stderr.write(f"unlatch-custodian: hint: {error.hint}\n")


if __name__ == "__main__":
    sys.exit(main())
