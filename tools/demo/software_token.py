"""The demo's token: SoftHSM in the demo's folder, with a PIN that nobody typed."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from unlatch.errors import ConfigError
from unlatch.tools.demo.cast import Cast, DemoError, last_line

LABEL, KEY = "demo", "site"
FOLDERS = (
    "/usr/lib/softhsm", "/usr/lib/x86_64-linux-gnu/softhsm", "/usr/lib/aarch64-linux-gnu/softhsm",
    "/usr/lib64/pkcs11", "/usr/lib64/softhsm", "/usr/local/lib/softhsm",
)  # fmt: skip
PIN_FILE = "UNLATCH_PKCS11_PIN_FILE"


def find_module() -> Path:
    """SoftHSM's library.

    Raises:
        ConfigError: it is not installed.
    """
    for folder in FOLDERS:
        if (module := Path(folder) / "libsofthsm2.so").is_file():
            return module
    raise ConfigError("--hsm: SoftHSM is missing", hint="apt-get install --no-install-recommends -y softhsm2")


@dataclass(frozen=True, slots=True)
class SoftwareToken:
    """An initialised token. The PIN lies in a file until it is sealed."""

    cast: Cast
    module: Path
    pin: str

    @classmethod
    def create(cls, cast: Cast) -> SoftwareToken:
        """Make the token, and have every later program find it.

        Raises:
            ConfigError: SoftHSM is not installed.
            DemoError: it refused.
        """
        tokens = cast.folder / "tokens"
        tokens.mkdir(mode=0o700)
        config = cast.folder / "softhsm2.conf"
        config.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        cast.environment["SOFTHSM2_CONF"] = str(config)
        made = cls(cast, find_module(), secrets.token_urlsafe(24))
        with cast.private("pin") as file:
            file.write(made.pin.encode())
        made._program("make", so_pin=secrets.token_urlsafe(24))
        return made

    @property
    def uri(self) -> str:
        """The token, as the sealed PIN and the configuration name it."""
        return f"pkcs11:token={LABEL}?module-path={self.module}"

    @property
    def key_uri(self) -> str:
        """The site's key in it."""
        return f"pkcs11:token={LABEL};object={KEY};type=private?module-path={self.module}"

    def make_key(self) -> bytes:
        """Have the token make the site's key; gives the certificate request that it signed."""
        known = {PIN_FILE: str(self.cast.folder / "pin")}
        self.cast.run("hsm", "make-key", self.key_uri, extra=known)
        self.cast.run("hsm", "csr", self.key_uri, "--names", "localhost", "--out", "site.csr", extra=known)
        return (self.cast.folder / "site.csr").read_bytes()

    def take_key_out(self) -> str:
        """What whoever knows the PIN gets who reads the key's secret half."""
        return self._program("take")

    def _program(self, what: str, **more: str) -> str:
        """Use the module in a process of its own; the PIN goes through a pipe."""
        facts = {"module": str(self.module), "label": LABEL, "key": KEY, "pin": self.pin} | more
        done = subprocess.run(
            [sys.executable, "-m", "unlatch.tools.demo.token_program", what],
            input=json.dumps(facts).encode(),
            capture_output=True,
            env=self.cast.environment,
            cwd=self.cast.folder,
            check=False,
            timeout=60,
        )
        if done.returncode != 0:
            raise DemoError(f"the software token refused: {last_line(done.stderr)}")
        return done.stdout.decode().strip()
