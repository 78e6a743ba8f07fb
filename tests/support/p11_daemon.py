"""p11-kit's server: a token's daemon, which can be killed and started again at its address."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from support.softhsm import MODULE, SoftHsm

CLIENT = Path("/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so")


class Daemon:
    """Serves the token "prod"; killed with its children, one for each connection."""

    def __init__(self, hsm: SoftHsm) -> None:
        self._hsm = hsm
        self.socket = hsm.folder / "p11.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Listen."""
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            ["p11-kit", "server", "-f", "--provider", MODULE, "--name", self.socket, "pkcs11:token=prod"],
            env=self._hsm.environment,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        for _ in range(2):  # its address and its pid: it listens then
            assert self._process.stdout.readline()

    def kill(self) -> None:
        """Kill -9, children included."""
        if self._process is not None:
            assert self._process.stdout is not None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
