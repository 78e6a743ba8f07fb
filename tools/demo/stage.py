"""Sets the demo's scene in a temporary folder: authority, keys, gate, upstreams, sealed file, configuration."""

from __future__ import annotations

import itertools
import json
import secrets
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from unlatch.tools.demo import software_token, software_tpm
from unlatch.tools.demo.cast import Cast, DemoError, events, last_line, wait_for
from unlatch.tools.demo.eavesdropper import Eavesdropper
from unlatch.tools.demo.pki import Authority, new_key
from unlatch.tools.demo.software_token import SoftwareToken
from unlatch.tools.demo.software_tpm import SoftwareTpm
from unlatch.tools.demo.upstreams import Upstream

HOST = "web1"
PCRS = "sha256:7,11"

CONFIG = """\
unlock:
  bundle: pay.jwe
  gates: [{gate}]
  wait: 5m
listeners:
  - bind: ["127.0.0.1:{port}"]
    certificates: [{{chain: site.pem, key: "{key}"}}]
routes:
  - match: {{path: /psp/*}}
    upstream: psp
    strip_prefix: /psp
    inject: {{header: Authorization, scheme: bearer, secret: psp, callers: ["127.0.0.0/8"]}}
  - upstream: app
upstreams:
  app: {{servers: ["127.0.0.1:{app}"]}}
  psp: {{servers: ["127.0.0.1:{psp}"], tls: {{name: localhost, ca: ca.pem}}}}
workers: 1
admin: {{socket: admin.sock}}
"""

HARDWARE = """\
hardware:
  pins: {{"{token}": "sealed:pin"}}
"""
SEALED_KEY, FIRST_IN_HARDWARE = 1, 0x8000
"""Guard's numbers of the site's key (docs/protocol.md 1)."""

RULES = """\
psp:
  upstream: https://localhost:{psp}
  ca: ca.pem
  methods: [GET]
  paths: [/v1/*, /{marker}/*]
  place: {{header: Authorization, scheme: bearer}}
  callers: ["127.0.0.0/8"]
"""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens."""

    proxy: int
    machines: int
    people: int


class Stage:
    """The scene; leaving it ends every process and removes every file.

    Args:
        hsm: the site's key lives in a software token, whose PIN is sealed.
        tpm: the sealed file opens with a software TPM and a person, and the host's key lives in that TPM.
    """

    def __init__(self, *, hsm: bool = False, tpm: bool = False) -> None:
        self.hsm, self.tpm = hsm, tpm
        if hsm:
            software_token.find_module()
        if tpm:
            software_tpm.require()

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="unlatch-demo-"))
        self.cast = Cast(self.folder)
        self.addresses = Addresses(*free_ports(3))
        self.wire = Eavesdropper(self.addresses.machines)
        # No secret: it stands in the CA's name and in the sealed rules, so that the scan has something to find.
        self.marker = secrets.token_hex(16)
        self.authority = Authority.create(f"unlatch demo {self.marker}")
        self.authority.write(self.folder / "ca.pem")
        self.token = secrets.token_urlsafe(32)
        self.key_pem = b"" if self.hsm else self._site()
        self.app = Upstream()
        self.psp = self._payment_provider()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cast.end()
        for server in (self.wire, self.app, self.psp):
            server.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def gate_url(self) -> str:
        """The workload's address at the gate."""
        return f"http://localhost:{self.wire.port}/s/pay"

    def start_gate(self) -> None:
        """Make a gate with one operator and one workload, and start it."""
        gate = str(self.folder / "gate")
        self._operator("mara")
        self.cast.run("gate", "init", gate, "--admin-key", "mara.pub", "--admin-name", "mara")
        self.cast.run(
            *("gate", "workload", "add", "pay", "--dir", gate, "--approver", "mara", "--clients", "native"),
            *("--sign-with", "mara"),
        )
        log = self.folder / "gate.log"
        self.gate = self.cast.start(
            *("gate", "serve", gate),
            *(
                "--listen",
                f"127.0.0.1:{self.addresses.machines}",
                "--people",
                f"127.0.0.1:{self.addresses.people}",
            ),
            *("--url", f"http://localhost:{self.wire.port}"),
            *("--people-url", f"http://localhost:{self.addresses.people}"),
            log=log,
        )
        wait_for("the gate's start", lambda: True if is_open(self.addresses.machines) else None)

    def start_hardware(self) -> None:
        """Make the token and its key; start the TPM, make the host's key in it and have the gate know it."""
        if self.hsm:
            self.hardware_token = SoftwareToken.create(self.cast)
            (self.folder / "site.pem").write_bytes(
                self.authority.issue_for_request(self.hardware_token.make_key())
            )
        if self.tpm:
            self.machine = SoftwareTpm(self.cast, "tpm")
            self.cast.environment |= {"UNLATCH_TCTI": self.machine.tcti, "UNLATCH_HOST_KEY": "host.key"}
            self.cast.run("host", "enroll", "--tpm", "--out", "host.key", "--name", HOST)
            self.cast.run(
                *("gate", "host", "add", HOST, "host.key.pub", "--dir", "gate", "--sign-with", "mara")
            )

    def trust_gate(self) -> str:
        """Pin the gate's signing key, read from the gate itself; gives its thumbprint."""
        keys = self.cast.run("gate", "keys", str(self.folder / "gate"), "--json").stdout
        facts = json.loads(keys)
        thumbprint, self.workload_key = str(facts["signing"][0]), str(facts["workloads"]["pay"])
        self.cast.run("gate", "trust", self.gate_url, "--thp", thumbprint)
        return thumbprint

    def seal(self, thumbprint: str) -> None:
        """Seal the site's key and the token, then remove them."""
        (self.folder / "token").write_text(self.token)
        (self.folder / "rules.yaml").write_text(RULES.format(psp=self.psp.port, marker=self.marker))
        key, secret, hardware = self._site_options()
        self.cast.run(
            *("seal", "--to", self.gate_url, "--thp", thumbprint, "--workload", "pay", *secret),
            *(("--pcrs", PCRS) if self.tpm else ()),
            *("--token", "psp=@token", "--use", "rules.yaml", "--out", "pay.jwe"),
        )
        for name in ("pin" if self.hsm else "site.key", "token"):
            (self.folder / name).unlink()
        config = CONFIG.format(
            gate=thumbprint, port=self.addresses.proxy, app=self.app.port, psp=self.psp.port, key=key
        )
        (self.folder / "unlatch.yaml").write_text(config + hardware)

    def start_proxy(self) -> None:
        """`unlatch serve`, which asks the gate."""
        self.proxy = self.cast.start("serve", "-c", "unlatch.yaml", log=self.folder / "proxy.log")
        self.event("asking")

    def processes(self) -> dict[str, Any]:
        """The proxy's processes as `unlatch status` names them."""
        status = json.loads(self.cast.run("status", "--json", "--socket", "admin.sock", check=False).stdout)
        return dict(status["processes"])

    def pids(self) -> dict[str, int]:
        """Every process of the proxy and of the gate."""
        found = {name: int(entry["pid"]) for name, entry in self.processes().items()}
        (keyholder,) = children(self.gate.pid)
        return found | {
            "supervisor": self.proxy.pid,
            "gate's decider": self.gate.pid,
            "gate's keyholder": keyholder,
        }

    def event(self, name: str, *, seconds: float = 20.0, count: int = 1) -> dict[str, object]:
        """Wait for a step in the proxy's log."""
        log = self.folder / "proxy.log"

        def look() -> dict[str, object] | None:
            found = [one for one in events(log) if one.get("event") == name]
            if len(found) < count and self.proxy.poll() is not None:
                raise DemoError(
                    f"the proxy ended with {self.proxy.returncode}: {last_line(log.read_bytes())}"
                )
            return found[count - 1] if len(found) >= count else None

        return wait_for(f"{name!r} in the proxy's log", look, seconds=seconds)

    def waiting_line(self, *, seconds: float = 20.0) -> str:
        """The one line that holds the code."""
        log = self.folder / "proxy.log"

        def look() -> str | None:
            lines = [line for line in log.read_text().splitlines() if line.startswith("unlatch: waiting:")]
            return lines[-1] if lines else None

        return wait_for("the waiting line", look, seconds=seconds)

    @property
    def key_number(self) -> int:
        """Guard's number of the site's key."""
        return FIRST_IN_HARDWARE if self.hsm else SEALED_KEY

    def _site_options(self) -> tuple[str, tuple[str, ...], str]:
        """How the configuration names the site's key, what is sealed for it, and what else is configured."""
        if not self.hsm:
            return "sealed:tls", ("--key", "tls=site.key", "--names", "localhost"), ""
        token = self.hardware_token
        sealed = ("--pin", "pin=@pin", "--hardware", token.uri)
        return token.key_uri, sealed, HARDWARE.format(token=token.uri)

    def _operator(self, name: str) -> None:
        if shutil.which("ssh-keygen") is None:
            raise DemoError("ssh-keygen is missing", hint="install openssh-client")
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def _site(self) -> bytes:
        key, pem = new_key()
        (self.folder / "site.pem").write_bytes(self.authority.issue(["localhost"], key.public_key()))
        with self.cast.private("site.key") as file:
            file.write(pem)
        return pem

    def _payment_provider(self) -> Upstream:
        key, pem = new_key()
        chain, key_file = self.folder / "psp.pem", self.folder / "psp.key"
        chain.write_bytes(self.authority.issue(["localhost"], key.public_key()))
        key_file.write_bytes(pem)
        return Upstream(chain, key_file)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses, and that the kernel gives to no connection: they stay free until they are used."""
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = list(range(20_000, given if given > 21_000 else 65_536))
    secrets.SystemRandom().shuffle(candidates)
    return list(itertools.islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_open(port: int) -> bool:
    """Whether loopback accepts a connection."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
