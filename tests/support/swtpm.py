"""A software TPM on loopback, one per test module, with a state of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from base64 import urlsafe_b64decode
from pathlib import Path
from types import TracebackType
from typing import Self

from support.product import free_port
from support.vectors import load

STATE_FILE = "tpm2-00.permall"


class Swtpm:
    """A running TPM without a resource manager: what leaks stays, and only one program talks to it at a time.

    ``with Swtpm() as tpm: tpm.tcti``. `restart` is a reboot: PCRs are reset, keys and counters stay.
    """

    def __init__(self, state: bytes | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="swtpm-"))
        if state is not None:
            (self.folder / STATE_FILE).write_bytes(state)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of_the_vectors(cls) -> Self:
        """The TPM that made the vectors of tests/vectors."""
        return cls(urlsafe_b64decode(_padded(load("clevis_tpm2")["swtpm_state_b64"])))

    @property
    def tcti(self) -> str:
        """How the TSS libraries and tools reach it."""
        return f"swtpm:host=127.0.0.1,port={self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment for programs that use it."""
        return {**os.environ, "TPM2TOOLS_TCTI": self.tcti, "TPM2OPENSSL_TCTI": self.tcti}

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Power on, on the ports it had before or on free ones."""
        for _ in range(20):
            self.port = self.port or _two_free_ports()
            self._process = subprocess.Popen(
                [
                    "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder}",
                    "--server", f"type=tcp,bindaddr=127.0.0.1,port={self.port}",
                    "--ctrl", f"type=tcp,bindaddr=127.0.0.1,port={self.port + 1}",
                    "--flags", "not-need-init,startup-clear",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            if self._answers():
                return
            self._process.wait()
            self.port = 0
        raise RuntimeError("swtpm does not start")

    def stop(self) -> None:
        """Power off."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Reboot."""
        self.stop()
        self.start()

    def run(self, *command: str | Path, data: bytes = b"") -> bytes:
        """Run a program that uses this TPM and give its output."""
        done = subprocess.run(command, input=data, capture_output=True, env=self.environment, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr.decode()}"
        return done.stdout

    def extend(self, pcr: int, text: str, bank: str = "sha256") -> None:
        """Change a PCR."""
        from hashlib import new

        self.run("tpm2_pcrextend", f"{pcr}:{bank}={new(bank, text.encode()).hexdigest()}")

    def leaks(self) -> list[str]:
        """Transient objects and sessions that nobody flushed."""
        kinds = ("handles-transient", "handles-loaded-session", "handles-saved-session")
        return [
            line.decode().strip("- ") for kind in kinds for line in self.run("tpm2_getcap", kind).splitlines()
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def _answers(self) -> bool:
        """Wait for both ports, or for its end."""
        assert self._process is not None
        waiting = [self.port, self.port + 1]
        while waiting and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", waiting[0]), timeout=5).close()
            except ConnectionRefusedError:
                continue
            waiting.pop(0)
        return not waiting


def _two_free_ports() -> int:
    """The TSS library expects the control port right after the data port."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port + 1)).close()
            return port


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)
