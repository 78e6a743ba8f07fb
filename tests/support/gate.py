"""A gate on loopback, run as its administrator would: ssh-keygen, `gate init`, `gate workload add`, `gate serve`.

``with Gate(tmp_path) as gate: gate.url, gate.thumbprint, gate.approve(code="KTRW-HQMZ"), gate.deny(), gate.pending()``.
Commands run with `folder` as home, as `support.product.unlatch` does, so that `unlatch seal --to localhost/pay` of a
test finds the same trusted gate.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.product import UNLATCH, Running, environment, eventually, free_port, unlatch

CODE = re.compile(r"\b[B-DF-HJ-NP-TV-XZ]{4}-[B-DF-HJ-NP-TV-XZ]{4}\b")

_FOUNDED: dict[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str], Path] = {}


def code_in(text: str) -> str | None:
    """The first code in what an asker printed."""
    found = CODE.search(text)
    return found[0] if found else None


def make_ssh_key(path: Path, *, kind: str = "ed25519") -> Path:
    """An SSH key without a passphrase; its name is its comment."""
    path.parent.mkdir(exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", path.name, "-f", path], check=True)
    return path


class Gate:
    """A gate with operators and workloads; decider and keyholder in processes of their own.

    Args:
        folder: home of everybody who runs a command here; the gate's own folder is made inside.
        operators: who may approve; the first is the administrator.
        name: gates of one name and kind have the same keys (they are copies, for speed); other names have others.
        workloads: made before it starts, with `policy` as arguments of `gate workload add`.
        protect: arguments of `gate init` that say what protects its master key.
        variables: more environment variables for every command and for the gate.
    """

    def __init__(
        self,
        folder: Path,
        *,
        operators: tuple[str, ...] = ("mara",),
        workloads: tuple[str, ...] = ("pay",),
        policy: tuple[str, ...] = ("--clients", "both", "--hold", "60s", "--expires", "5m"),
        name: str = "gate",
        protect: tuple[str, ...] = (),
        variables: dict[str, str] | None = None,
    ) -> None:
        self.folder, self.name, self.policy = folder, name, policy
        self.variables = variables or {}
        self.directory = folder / name
        self._keys = {one: folder / "ssh" / f"{name}-{one}" for one in operators}
        self._admin = operators[0]
        self._ports = free_port(), free_port()
        self._starts = 0
        founded = None if protect else _FOUNDED.get((operators, workloads, policy, name))
        if protect:
            founded = self._found(operators, workloads, *protect)
        elif founded is None:
            founded = _FOUNDED[operators, workloads, policy, name] = self._found(operators, workloads)
        else:
            shutil.copytree(founded / name, self.directory)
            shutil.copytree(founded / "ssh", folder / "ssh", dirs_exist_ok=True)
        facts = json.loads((founded / "facts.json").read_text())
        self.thumbprint: str = facts["signing"][0]
        self.genesis: str = facts["genesis"]
        self.process: Running | None = None

    @property
    def url(self) -> str:
        """Address of the machines' listener, without a slash at the end."""
        return f"http://localhost:{self._ports[0]}"

    @property
    def people(self) -> str:
        """Address of the people's listener."""
        return f"http://localhost:{self._ports[1]}"

    def workload_url(self, workload: str = "pay") -> str:
        """What a file is sealed to."""
        return f"{self.url}/s/{workload}"

    def key(self, operator: str | None = None) -> Path:
        """An operator's private SSH key, the administrator's by default."""
        return self._keys[operator or self._admin]

    def __enter__(self) -> Self:
        self.start()
        self.must("gate", "trust", self.url, "--thp", self.thumbprint, "--name", self.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.process.__exit__(None, None, None)

    def start(self) -> None:
        """Serve, on the same addresses as before."""
        machines, people = self._ports
        self._starts += 1
        self.process = Running(
            [
                *UNLATCH, "gate", "serve", str(self.directory), "--listen", f"127.0.0.1:{machines}",
                "--people", f"127.0.0.1:{people}",
            ],
            folder=self.folder, name=f"{self.name}-{self._starts}", extra=self.variables,
        )  # fmt: skip
        self.process.wait_for_event("listening")

    def stop(self) -> int:
        """End it as a service manager does; gives its exit code."""
        assert self.process is not None
        self.process.process.send_signal(signal.SIGTERM)
        return self.process.wait_for_end()

    def kill(self) -> None:
        """End decider without a warning, and wait until keyholder has gone too."""
        assert self.process is not None
        keyholder = self.keyholder_pid()
        self.process.process.kill()
        self.process.wait_for_end()
        eventually("keyholder's end", lambda: None if Path(f"/proc/{keyholder}").exists() else True)

    def keyholder_pid(self) -> int:
        """The process that holds the keys."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.process.pid}/task/{self.process.process.pid}/children")
        for pid in children.read_text().split():
            if b"keyholder_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        raise LookupError("no keyholder runs")

    def add_operator(self, name: str, *, admin: bool = False) -> None:
        """Enrol one more person, with a new key."""
        if name not in self._keys:
            self._keys[name] = make_ssh_key(self.folder / "ssh" / f"{self.name}-{name}")
        public = f"{self._keys[name]}.pub"
        flag = ["--admin"] if admin else []
        self.must("gate", "operator", "add", name, public, *flag, *self._where())

    def add_workload(self, name: str, *policy: str) -> None:
        """Add a workload, or change it; everybody may approve unless `policy` names approvers."""
        approvers = [] if "--approver" in policy else ["--approver", ",".join(self._keys)]
        self.must("gate", "workload", "add", name, *approvers, *policy, *self._where())

    def add_host(self, name: str, public: Path) -> str:
        """Enrol a host's key; gives what the command says."""
        return self.must("gate", "host", "add", name, str(public), *self._where()).decode()

    def suspend_host(self, name: str) -> None:
        """Let a host's key count no more."""
        self.must("gate", "host", "suspend", name, *self._where())

    def pending(self) -> list[dict[str, Any]]:
        """The requests that wait."""
        found: list[dict[str, Any]] = self.json("pending", "--json", *self._as(None))["requests"]
        return found

    def wait_for_request(self, workload: str = "pay", *, seconds: float = 30) -> str:
        """The id of a request that waits for this workload."""

        def look() -> str | None:
            return next((str(one["id"]) for one in self.pending() if one["workload"] == workload), None)

        return eventually(f"a request for {workload}", look, seconds=seconds)

    def approve(
        self, request: str | None = None, *, code: str, operator: str | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """`unlatch approve`, ended; look at its returncode. For a stock client the code is the workload's name."""
        named = [request] if request else []
        return self.run("approve", *named, "--code", code, *self._as(operator))

    def deny(
        self, request: str | None = None, *, operator: str | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """`unlatch deny`, ended."""
        return self.run("deny", *([request] if request else []), *self._as(operator))

    def verify_audit(self) -> subprocess.CompletedProcess[bytes]:
        """`unlatch audit verify` with the genesis that `gate init` printed."""
        return self.run("audit", "verify", "--genesis", self.genesis, "--json", *self._as(None))

    def seal_with_clevis(self, plaintext: bytes, *, workload: str = "pay") -> bytes:
        """What Debian's clevis makes of some bytes."""
        config = json.dumps({"url": self.workload_url(workload), "thp": self.thumbprint})
        done = subprocess.run(
            ["clevis", "encrypt", "tang", config],
            input=plaintext,
            capture_output=True,
            check=True,
            timeout=30,
        )
        return done.stdout

    def run(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[bytes]:
        """Any unlatch command in this gate's home."""
        return unlatch(*arguments, cwd=self.folder, seconds=seconds, extra=self.variables)

    def json(self, *arguments: str) -> dict[str, Any]:
        """The JSON that a command prints; it must succeed."""
        return dict(json.loads(self.must(*arguments)))

    def must(self, *arguments: str) -> bytes:
        """What a command prints on standard output; it must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def _found(self, operators: tuple[str, ...], workloads: tuple[str, ...], *protect: str) -> Path:
        """Make the gate; gives a copy of it for the next one of its kind."""
        for key in self._keys.values():
            make_ssh_key(key)
        founder = ["--admin-key", f"{self.key()}.pub", "--admin-name", self._admin]
        facts = self.must("gate", "init", str(self.directory), *founder, *protect, "--json")
        for one in operators[1:]:
            self.add_operator(one)
        for one in workloads:
            self.add_workload(one, *self.policy)
        kept = Path(tempfile.mkdtemp(prefix="gate-"))
        atexit.register(shutil.rmtree, kept, ignore_errors=True)
        shutil.copytree(self.directory, kept / self.name)
        (kept / "ssh").mkdir()
        for key in self._keys.values():
            for path in (key, key.with_name(f"{key.name}.pub")):
                shutil.copy2(path, kept / "ssh")
        (kept / "facts.json").write_bytes(facts)
        return kept

    def _where(self) -> list[str]:
        return ["--dir", str(self.directory), "--sign-with", str(self.key())]

    def _as(self, operator: str | None) -> list[str]:
        return ["--gate", self.name, "--key", str(self.key(operator))]


class ClevisDecrypt:
    """A `clevis decrypt` that waits for people."""

    def __init__(self, jwe: bytes, *, home: Path) -> None:
        self._process = subprocess.Popen(
            ["clevis", "decrypt"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment(home), start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(jwe)
        self._process.stdin.close()
        self._process.stdin = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def end(self, *, seconds: float = 60) -> tuple[int, bytes]:
        """Its exit code and what it printed on standard output."""
        stdout, _ = self._process.communicate(timeout=seconds)
        return self._process.returncode, stdout


class Opening:
    """An `unlatch open` that waits for people.

    Args:
        jwe: the sealed file; written into the gate's home.
        options: more arguments of `unlatch open`.
        variables: more environment variables.
    """

    _number = itertools.count()

    def __init__(
        self, gate: Gate, jwe: bytes, *options: str, variables: dict[str, str] | None = None
    ) -> None:
        name = f"opening-{next(self._number)}"
        path = gate.folder / f"{name}.jwe"
        path.write_bytes(jwe)
        self._errors = gate.folder / f"{name}.log"
        with self._errors.open("wb") as file:
            self._process = subprocess.Popen(
                [*UNLATCH, "open", str(path), *options],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, cwd=gate.folder,
                env=environment(gate.folder) | gate.variables | (variables or {}), start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def text(self) -> str:
        """What it said on standard error."""
        return self._errors.read_text()

    def wait_for(self, words: str) -> None:
        """Wait until it says something."""
        eventually(f"the words {words!r}", lambda: self._look(words if words in self.text() else None))

    def code(self) -> str:
        """The code on its console, as soon as it stands there."""
        return eventually("a code", lambda: self._look(code_in(self.text())))

    def end(self, *, seconds: float = 60) -> tuple[int, bytes]:
        """Its exit code and what it printed on standard output."""
        stdout, _ = self._process.communicate(timeout=seconds)
        return self._process.returncode, stdout

    def _look(self, found: str | None) -> str | None:
        """What was found; where nothing was, it must still run."""
        assert found or self._process.poll() is None, self.text()
        return found
