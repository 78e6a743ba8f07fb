"""A PKCS#11 module under orders, compiled by the test: SoftHSM behind it, what C_Sign does from a file."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.softhsm import MODULE

SOURCE = Path(__file__).with_name("bad_pkcs11.c")


class BadModule:
    """The library, its order and its count of logins."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.path = folder, folder / "bad.so"
        self._order, self._logins = folder / "order", folder / "logins"
        names = {"REAL": MODULE, "ORDER": self._order, "LOGINS": self._logins}
        defined = [f'-D{name}="{value}"' for name, value in names.items()]
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-Wall", *defined, "-o", self.path, SOURCE], check=True, timeout=60
        )
        self.order("ok")

    def order(self, text: str) -> None:
        """Say what C_Sign does from now on."""
        new = self._order.with_suffix(".new")
        new.write_text(text)
        new.replace(self._order)

    @property
    def logins(self) -> int:
        """How often a PIN was tried."""
        return self._logins.read_text().count("\n") if self._logins.exists() else 0
