"""The demo's TPMs: swtpm on loopback, each with its state in the demo's folder."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
import socket
import struct
from functools import partial
from pathlib import Path

from unlatch.errors import ConfigError
from unlatch.tools.demo.cast import Cast, wait_for

SECONDS = 5.0
SESSIONS, PCR_EXTEND, PASSWORD, SHA256 = 0x8002, 0x182, 0x40000009, 0x000B
"""TPM_ST_SESSIONS, TPM_CC_PCR_Extend, TPM_RS_PW and TPM_ALG_SHA256 (TPM 2.0 library, parts 2 and 3)."""


def require() -> None:
    """Look whether a software TPM can be used here.

    Raises:
        ConfigError: swtpm or tpm2-pytss is missing.
    """
    if shutil.which("swtpm") is None:
        raise ConfigError("--tpm: swtpm is missing", hint="apt-get install --no-install-recommends -y swtpm")
    if importlib.util.find_spec("tpm2_pytss") is None:
        raise ConfigError(
            "--tpm: tpm2-pytss is missing",
            hint="apt-get install -y libtss2-dev pkg-config gcc python3-dev, then pip install 'unlatch[tpm]'",
        )


class SoftwareTpm:
    """A running TPM without a resource manager: one program talks to it at a time."""

    def __init__(self, cast: Cast, name: str) -> None:
        state = cast.folder / name
        state.mkdir()
        self.port = _two_free_ports()
        cast.start_program(
            [
                "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}",
                "--server", f"type=tcp,bindaddr=127.0.0.1,port={self.port}",
                "--ctrl", f"type=tcp,bindaddr=127.0.0.1,port={self.port + 1}",
                "--flags", "not-need-init,startup-clear",
            ],
            log=Path(f"{state}.log"),
        )  # fmt: skip
        for port in (self.port, self.port + 1):
            wait_for("swtpm's start", partial(_answers, port))

    @property
    def tcti(self) -> str:
        """How the TSS libraries reach it."""
        return f"swtpm:host=127.0.0.1,port={self.port}"

    def extend(self, pcr: int, text: bytes) -> None:
        """Change a PCR of the SHA-256 bank, as another kernel would.

        Raises:
            ConfigError: the TPM refused.
        """
        password = struct.pack(">IIHBH", 9, PASSWORD, 0, 0, 0)
        digest = struct.pack(">IH", 1, SHA256) + hashlib.sha256(text).digest()
        body = struct.pack(">II", PCR_EXTEND, pcr) + password + digest
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as channel:
            channel.sendall(struct.pack(">HI", SESSIONS, 6 + len(body)) + body)
            answer = channel.recv(4096)
        if len(answer) < 10 or struct.unpack(">I", answer[6:10]) != (0,):
            raise ConfigError("the software TPM did not extend a PCR")


def _answers(port: int) -> bool | None:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS).close()
    except ConnectionRefusedError:
        return None
    return True


def _two_free_ports() -> int:
    """The TSS library expects the control port right after the data port."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                socket.create_server(("127.0.0.1", port + 1)).close()
                return port
