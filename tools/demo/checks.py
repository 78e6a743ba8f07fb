"""The demo's attacks: each tries one thing and notes what it saw."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from unlatch.errors import UnavailableError
from unlatch.memguard.scan import Form, Index, NotReadableError, forms, private_key_forms, scan
from unlatch.tools.demo import takeover
from unlatch.tools.demo.cast import wait_for
from unlatch.tools.demo.stage import Stage, is_open
from unlatch.tools.demo.table import Table

NEEDS_ROOT = "not tried: needs root"
CLEAN = "0 hits, 0 hits; control found"
STILL_PENDING, NOT_TRUSTED = 12, 16  # exit codes
# A server that logs in to its token itself keeps the PIN, as nginx and HAProxy do with one in openssl.cnf.
PIN_SERVER = """
import sys
pin, token = sys.stdin.readline().strip(), sys.stdin.readline().strip()
print("ready", flush=True)
sys.stdin.read()
"""
PLAIN_SERVER = """
import ssl, sys, socket
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("site.pem", sys.stdin.readline().strip())
token = sys.stdin.readline().strip()
listener = socket.create_server(("127.0.0.1", 0))
print("ready", flush=True)
listener.accept()
"""


@dataclass(slots=True)
class Checks:
    """Attacks on one running stage."""

    stage: Stage
    table: Table

    def connect_before_approval(self) -> None:
        """A locked proxy refuses connections."""
        seen = "accepted" if is_open(self.stage.addresses.proxy) else "refused"
        self.table.add("connect before approval", expected="refused", seen=seen)

    def wrong_code(self) -> None:
        """An approval with another code opens nothing."""
        result = self.stage.cast.run(
            *("approve", "--code", "BBBB-BBBB", "--key", "mara", "--gate", self.stage.gate_url), check=False
        )
        self.table.add(
            "approve with a wrong code",
            expected="refused",
            seen="refused" if result.returncode else "approved",
        )

    def serves(self) -> None:
        """TLS is served with the sealed key."""
        self.table.add("GET / over TLS", expected="200 ok", seen=self.get("/"))

    def token_arrives(self) -> None:
        """The upstream gets the token; the client never had it."""
        answer = self.get("/psp/v1/charge")
        seen = self.stage.psp.seen[-1] if self.stage.psp.seen else {}
        arrived = (
            seen.get("authorization") == f"Bearer {self.stage.token}" and seen.get("path") == "/v1/charge"
        )
        self.table.add(
            "token at the upstream",
            expected="200 ok, token arrived",
            seen=f"{answer}, token {'arrived' if arrived else 'missing'}",
        )

    def token_outside_its_paths(self) -> None:
        """A path outside the sealed rules gets no token."""
        before = len(self.stage.psp.seen)
        answer = self.get("/psp/v2/admin")
        reached = len(self.stage.psp.seen) - before
        self.table.add(
            "token for another path",
            expected="403, upstream not asked",
            seen=f"{answer}, upstream {'asked' if reached else 'not asked'}",
        )

    def taken_over_edge(self) -> None:
        """Edge's own socket to guard signs handshakes and nothing else."""
        edge = self.stage.processes()["edge"]
        for what, message in (
            ("edge asks to sign a certificate", takeover.certificate_to_be_signed()),
            ("edge asks to sign a JWT", b"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9"),
        ):
            seen = self._with_socket(
                edge,
                lambda channel, message=message: takeover.ask_to_sign(
                    channel, message, key=self.stage.key_number
                ),
            )
            self.table.add(what, expected="refused: not a handshake", seen=seen, holds=_refused(seen))

    def taken_over_egress(self) -> None:
        """Egress gets a token for its sealed upstream only."""

        def ask(channel: socket.socket) -> str:
            return takeover.ask_for_token(
                channel, route=1, method="GET", upstream="https://evil.example:443", path="/v1/charge"
            )

        seen = self._with_socket(self.stage.processes()["egress"], ask)
        self.table.add(
            "token towards another name",
            expected="refused: outside the sealed rules",
            seen=seen,
            holds=_refused(seen),
        )

    def kill_edge(self) -> None:
        """A dead edge is back without an approval and without a lost listener."""
        os.kill(self.stage.processes()["edge"]["pid"], signal.SIGKILL)
        wait_for("edge's restart", lambda: True if self.get("/") == "200 ok" else None)
        self.table.add(
            "kill -9 edge", expected="serves again, nobody asked", seen=f"serves again, {self.asked()}"
        )

    def answer_replayed(self) -> None:
        """The gate's answer works once, for the one who asked: whoever heard it opens nothing with it."""
        asked = ("open", "pay.jwe", "--secret", "psp")
        result = self.stage.cast.run(*asked, "--no-wait", check=False)
        seen = "waits for its own" if result.returncode == STILL_PENDING and not result.stdout else "opened"
        self.table.add("another asker on the old approval", expected="waits for its own", seen=seen)
        wire = self.stage.wire
        assert wire.answer, "the answer passed here"
        wire.replaying = True
        result = self.stage.cast.run(*asked, check=False)
        wire.replaying = False
        seen = "refused" if result.returncode == NOT_TRUSTED and not result.stdout else "opened"
        self.table.add("the answer replayed to another asker", expected="refused", seen=seen)

    def memory(self) -> None:
        """The key, or the PIN to it, and the token stand in no process; the same scan finds what is known to be there."""
        token = forms(self.stage.token.encode())
        if self.stage.hsm:
            wanted = [*forms(self.stage.hardware_token.pin.encode(), part="pin"), *token]
        else:
            wanted = [*private_key_forms(self.stage.key_pem), *token]
        for name, pid in sorted(self.stage.pids().items()):
            self._scan_row(name, pid, wanted)
        self._plain_server(wanted)

    @property
    def what(self) -> str:
        """What the sealed file holds besides the token."""
        return "PIN" if self.stage.hsm else "key"

    def audit(self) -> None:
        """The gate's log verifies with public keys alone."""
        result = self.stage.cast.run(
            "audit", "verify", "--gate", self.stage.gate_url, "--key", "mara", check=False
        )
        self.table.add(
            "audit log", expected="verified", seen="verified" if result.returncode == 0 else "not verified"
        )

    def get(self, path: str) -> str:
        """Status and first word of one verified request."""
        context = ssl.create_default_context(cafile=str(self.stage.folder / "ca.pem"))
        url = f"https://localhost:{self.stage.addresses.proxy}{path}"
        try:
            with urllib.request.urlopen(url, context=context, timeout=10) as answer:
                return f"{answer.status} {answer.read(64).decode().strip()}"
        except urllib.error.HTTPError as error:
            with error:
                return str(error.code)
        except (urllib.error.URLError, OSError) as error:
            return f"no answer ({type(error).__name__})"

    def asked(self) -> str:
        """How often the proxy asked since its first approval."""
        lines = (self.stage.folder / "proxy.log").read_text().splitlines()
        count = sum(line.startswith("unlatch: waiting:") for line in lines)
        return "nobody asked" if count == 1 else f"asked {count - 1} more times"

    def _with_socket(self, process: dict[str, Any], ask: Any) -> str:
        try:
            with takeover.steal_socket(process["pid"], process["guard"][0]) as channel:
                return str(ask(channel))
        except UnavailableError:
            return NEEDS_ROOT

    def _scan_row(self, name: str, pid: int, wanted: list[Form]) -> None:
        """Key or PIN, token, and the control: something that this process must hold."""
        known = self._known_to(name)
        try:
            key, token, control = _hits(pid, [*wanted, *forms(known.encode(), part="control")])
        except NotReadableError:
            self.table.add(
                f"{self.what}, token in {name}", expected=CLEAN, seen="not readable (needs root)", holds=True
            )
            return
        self.table.add(
            f"{self.what}, token in {name}",
            expected=CLEAN,
            seen=f"{key} hits, {token} hits; control {'found' if control else 'NOT found'}",
        )

    def _known_to(self, name: str) -> str:
        """What is no secret: the CA's name, the workload's key in the gate's log, the URI of the token's key."""
        if name.startswith("gate"):
            return self.stage.workload_key
        if name.startswith("custodian"):
            return self.stage.hardware_token.key_uri
        return self.stage.marker

    def _plain_server(self, wanted: list[Form]) -> None:
        """The control: an ordinary server with the same secrets, which the same scan must find."""
        stage = self.stage
        first, program = "control.key", PLAIN_SERVER
        if stage.hsm:
            first, program = stage.hardware_token.pin, PIN_SERVER
        else:
            (stage.folder / first).write_bytes(stage.key_pem)
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=stage.folder
        )
        try:
            assert process.stdin
            assert process.stdout
            process.stdin.write(f"{first}\n{stage.token}\n".encode())
            process.stdin.flush()
            process.stdout.readline()
            for what, hits in zip((self.what, "token"), _hits(process.pid, wanted), strict=False):
                self.table.add(
                    f"control: {what} in a plain server", expected="hits", seen="hits" if hits else "0 hits"
                )
        except NotReadableError:
            for what in (self.what, "token"):
                self.table.add(
                    f"control: {what} in a plain server", expected="hits", seen="not readable", holds=True
                )
        finally:
            process.kill()
            process.communicate()
            (stage.folder / "control.key").unlink(missing_ok=True)


def _hits(pid: int, wanted: list[Form]) -> tuple[int, int, int]:
    """Hits of the key, of the token and of the control."""
    parts = [run.form.part for _, run in scan(pid, Index(wanted)).runs]
    token, control = parts.count("token"), parts.count("control")
    return len(parts) - token - control, token, control


def _refused(seen: str) -> bool:
    return seen.startswith("refused") or seen == NEEDS_ROOT
