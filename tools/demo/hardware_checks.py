"""What the demo shows of hardware: a token that only a person opens, and a TPM that a thief lacks."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlatch.tools.demo.cast import last_line, wait_for
from unlatch.tools.demo.checks import Checks
from unlatch.tools.demo.software_tpm import SoftwareTpm
from unlatch.tools.demo.stage import HOST, Stage, children
from unlatch.tools.demo.table import Table

HANDSHAKES = 20
SHARE_BYTES = 64
"""Two numbers of 32 bytes (clevis's sss)."""
WAITING = re.compile(r"code (\S+), card \S+/r/(\w+),")


@dataclass(slots=True)
class HardwareChecks:
    """Looks at, and attacks on, the hardware of one running stage."""

    stage: Stage
    table: Table
    checks: Checks

    def token_before_approval(self) -> None:
        """Nobody has logged in to the token: no process has its module loaded."""
        self.table.add(
            "the token before approval", expected="no process uses it", seen=_called(self._users_of_token())
        )

    def token_after_approval(self) -> None:
        """One process, the custodian, uses the token."""
        self.table.add(
            "the token after approval", expected="custodian 0 uses it", seen=_called(self._users_of_token())
        )

    def key_stays(self) -> None:
        """Whoever knows the PIN cannot take the key out either."""
        self.table.add(
            "take the key out, PIN in hand",
            expected="refused: not extractable",
            seen=self.stage.hardware_token.take_key_out(),
        )

    def handshakes(self) -> None:
        """Every handshake is one signature of the token, and every signature one handshake."""
        before = self._signatures()
        answers = [self.checks.get("/") for _ in range(HANDSHAKES)]
        seen = f"{answers.count('200 ok')} answered, {self._signatures() - before} signatures"
        self.table.add(
            f"{HANDSHAKES} handshakes on the token's key",
            expected=f"{HANDSHAKES} answered, {HANDSHAKES} signatures",
            seen=seen,
        )

    def kill_custodian(self) -> None:
        """A dead custodian is back, logged in by guard with the PIN that it keeps, without a person."""
        os.kill(self.stage.processes()["custodian 0"]["pid"], signal.SIGKILL)
        began = time.monotonic()
        wait_for("the token's return", lambda: True if self.checks.get("/") == "200 ok" else None)
        took = time.monotonic() - began
        healed = "heals within 2 s" if took < 2 else f"heals after {took:.1f} s"
        self.table.add(
            "kill -9 custodian",
            expected="heals within 2 s, nobody asked",
            seen=f"{healed}, {self.checks.asked()}",
        )

    def host_on_card(self) -> None:
        """The card names the machine by a key that cannot leave its TPM."""
        shown = self.stage.cast.run(
            *("show", "--gate", self.stage.gate_url, "--key", "mara", "--json"), check=False
        )
        seen = str(json.loads(shown.stdout)["identity"]) if shown.returncode == 0 else last_line(shown.stderr)
        self.table.add("who asks, on the card", expected=f"TPM key {HOST}", seen=seen)

    def approved_thief(self) -> None:
        """A thief of the file whom somebody approves gets the gate's share and lacks the TPM's."""
        stage = self.stage
        elsewhere = {"UNLATCH_TCTI": SoftwareTpm(stage.cast, "another-tpm").tcti, "UNLATCH_HOST_KEY": "none"}
        (stage.folder / "stolen.jwe").write_text(_share_of_the_gate((stage.folder / "pay.jwe").read_text()))
        log = stage.folder / "thief.log"
        thief = stage.cast.start("open", "stolen.jwe", "--out", "share", log=log, extra=elsewhere)
        code, request = wait_for("the thief's waiting line", lambda: _waiting(log.read_text()))
        approve = ("approve", request, "--code", code, "--key", "mara", "--gate", stage.gate_url)
        stage.cast.run(*approve)
        thief.wait(20)
        has_share = thief.returncode == 0 and (stage.folder / "share").stat().st_size == SHARE_BYTES
        opened = stage.cast.run(
            *("open", "pay.jwe", "--secret", "psp", "--no-wait"), check=False, extra=elsewhere
        )
        share = "one share of two" if has_share else "no share"
        seen = f"{share}, {'opens nothing' if opened.returncode and not opened.stdout else 'opened'}"
        self.table.add(
            "approved thief without this TPM", expected="one share of two, opens nothing", seen=seen
        )

    def another_kernel(self) -> None:
        """A machine that booted something else opens nothing; what serves goes on serving."""
        self.stage.machine.extend(11, b"another kernel")
        opened = self.stage.cast.run("open", "pay.jwe", "--secret", "psp", "--no-wait", check=False)
        refused = "the TPM refuses" if b"PCRs" in opened.stderr and not opened.stdout else "opened"
        self.table.add(
            "PCR 11 changed", expected="the TPM refuses, proxy 200 ok", seen=f"{refused}, proxy {self.checks.get('/')}"
        )  # fmt: skip

    def _users_of_token(self) -> list[str]:
        """Which processes of the proxy have the token's module loaded."""
        names = {int(entry["pid"]): name for name, entry in self._processes().items() if entry.get("pid")}
        module = self.stage.hardware_token.module.resolve().name
        family = _family(self.stage.proxy.pid)
        return [names.get(pid, f"process {pid}") for pid in family if module in _maps(pid)]

    def _processes(self) -> dict[str, Any]:
        status = self.stage.cast.run("status", "--json", "--socket", "admin.sock", check=False)
        return dict(json.loads(status.stdout).get("processes", {}))

    def _signatures(self) -> int:
        (custodian,) = self.stage.processes()["guard"]["custodians"]
        return sum(int(key["signatures"]) for key in custodian["keys"])


def _share_of_the_gate(sealed: str) -> str:
    """The sealed file inside the sealed file that only the gate opens; it stands there for everybody to read."""
    parts: list[str] = _header(sealed)["clevis"]["sss"]["jwe"]
    return next(one for one in parts if _header(one)["clevis"]["pin"] == "tang")


def _header(jwe: str) -> dict[str, Any]:
    text = jwe.partition(".")[0]
    return dict(json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))


def _waiting(text: str) -> tuple[str, str] | None:
    found = WAITING.search(text)
    return (found[1], found[2]) if found else None


def _family(pid: int) -> list[int]:
    return [pid, *(one for child in children(pid) for one in _family(child))]


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


def _called(users: list[str]) -> str:
    return f"{', '.join(users) or 'no process'} uses it"
