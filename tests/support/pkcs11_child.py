"""Opens and seals with tokens in a process of its own: a module reads its environment once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.softhsm import SoftHsm

MAIN = """
import sys
from unlatch.__main__ import main
sys.argv[0] = "unlatch"
main()
"""


def unlatch(
    hsm: SoftHsm, *arguments: str | Path, pin: Path | None = None, data: bytes = b""
) -> tuple[int, bytes, str]:
    """Run the command line with these tokens; gives exit code, standard output and standard error."""
    environment = dict(hsm.environment)
    if pin is not None:
        environment["UNLATCH_PKCS11_PIN_FILE"] = str(pin)
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        input=data,
        capture_output=True,
        env=environment,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr.decode()
