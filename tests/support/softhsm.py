"""SoftHSM 2 tokens in a folder of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "482913"
SO_PIN = "77777777"


class SoftHsm:
    """Tokens that only programs with `environment` see.

    SoftHSM reads its configuration's path from the environment once per process, so code under test that loads the
    module in this process sees the first folder for ever: run it in a child, or use one folder per test session.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="softhsm-"))
        self.config = self.folder / "softhsm2.conf"
        self.tokens = self.folder / "tokens"
        self.tokens.mkdir()
        self.config.write_text(
            f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = true\n"
        )

    @property
    def environment(self) -> dict[str, str]:
        """The environment for programs that use it."""
        return {**os.environ, "SOFTHSM2_CONF": str(self.config)}

    def run(self, *command: str | Path, data: bytes = b"") -> bytes:
        """Run a program that uses these tokens and give its output."""
        done = subprocess.run(command, input=data, capture_output=True, env=self.environment, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr.decode()}"
        return done.stdout

    def add_token(self, label: str, *, pin: str = PIN) -> None:
        """Make a token."""
        self.run(
            "softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", SO_PIN
        )

    def tool(self, token: str, *arguments: str | Path, pin: str = PIN, data: bytes = b"") -> bytes:
        """Run OpenSC's pkcs11-tool on a token, logged in."""
        return self.run(
            "pkcs11-tool", "--module", MODULE, "--token-label", token, "--login", "--pin", pin, *arguments, data=data
        )  # fmt: skip

    def make_key(self, token: str, kind: str, label: str, identity: str = "01") -> None:
        """Make a key pair: "rsa:2048", "EC:prime256v1", "EC:secp384r1", "EC:edwards25519"."""
        self.tool(token, "--keypairgen", "--key-type", kind, "--label", label, "--id", identity)

    def import_key(self, token: str, pem: Path, label: str, identity: str = "01", *, pin: str = PIN) -> None:
        """Bring a PKCS#8 key in."""
        self.run(
            "softhsm2-util", "--import", pem, "--token", token, "--label", label, "--id", identity, "--pin", pin
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder)
