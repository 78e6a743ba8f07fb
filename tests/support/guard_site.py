"""What a guard under a memory scan holds, and the work that it is given. TEST ONLY keys, made at run time."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.guard_client import (
    ECDSA_P256,
    ECDSA_P384,
    ED25519,
    PSS_SHA256,
    Caller,
    GuardClient,
    WorkerClient,
    base64url,
    bundle,
    certificate_verify,
    private_key_secret,
    seal,
    spki,
    ticket_secret,
    token_secret,
)
from support.pki import PrivateKey, new_key, pem

ROOT = Path(__file__).parents[2]
SCRAPE = ROOT / "tests" / "memory" / "scrape.py"
UPSTREAM = "https://api.psp.example:443"
SCHEMES = {"p256": ECDSA_P256, "rsa": PSS_SHA256, "ed25519": ED25519, "p384": ECDSA_P384}
TOKENS = ("psp", "crm")
NODE = "memory"


@functools.cache
def variant_program() -> Path:
    """Guard built to misbehave as `UNLATCH_TEST_VARIANT` says."""
    name = "unlatch-guard-variant"
    command = ["cargo", "build", "--locked", "--quiet", "--package", "unlatch-guard", "--bin", name]
    subprocess.run([*command, "--features", "test-variant"], cwd=ROOT, check=True)
    return ROOT / "target" / "debug" / name


@dataclass(frozen=True)
class Finding:
    """A scan's verdict."""

    code: int
    report: dict[str, Any]

    @property
    def found(self) -> set[str]:
        """Names of the secrets that were hit."""
        return set(self.report["summary"])

    @property
    def places(self) -> str:
        """For messages: what was found, where."""
        hits = [hit for process in self.report["processes"] for hit in process["hits"]]
        return json.dumps([self.report["summary"], hits], indent=1, default=str)[:4000]


class GuardSite:
    """Four keys, two tokens and a ticket chain, told to the scanner and sealed for guard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: dict[str, PrivateKey] = {
            kind: new_key(kind) for kind in ("p256", "rsa", "ed25519", "p384")
        }
        self.tokens = {name: base64.b64encode(os.urandom(30)).decode() for name in TOKENS}
        self.content_key = os.urandom(32)
        for name, key in self.keys.items():
            (folder / f"{name}.key").write_bytes(pem(key))
        for name, token in self.tokens.items():
            (folder / f"{name}.token").write_text(token)
        (folder / "content.key").write_bytes(self.content_key)
        key_use = {"names": ["pay.example"], "roles": ["server", "csr"]}
        token_use = {"upstream": UPSTREAM, "callers": ["anyone"]}
        secrets = {name: private_key_secret(key, key_use) for name, key in self.keys.items()}
        secrets |= {name: token_secret(token, token_use) for name, token in self.tokens.items()}
        chain, epoch = os.urandom(32), int(time.time()) // 3600 - 3
        secrets["fleet"] = ticket_secret(chain, epoch)
        self.tickets = ticket_numbers(chain)
        self.sealed = seal(bundle(secrets), self.content_key)
        place = {"header": "Authorization", "scheme": "bearer"}
        self.configuration = {
            "tickets": {"where": "tickets", "secret": "fleet"},
            "certificates": [
                {"where": name, "key": name, "spki": base64url(spki(key)), "names": ["pay.example"]}
                for name, key in self.keys.items()
            ],
            "inject": [
                {
                    "id": number,
                    "where": name,
                    "secret": name,
                    "upstream": UPSTREAM,
                    "ca": None,
                    "place": place,
                }
                | {"callers": ["anyone"]}
                for number, name in enumerate(self.tokens, 1)
            ],
        }

    def unlock(self, guard: GuardClient) -> None:
        """Load and configure."""
        guard.load(self.sealed, self.content_key)
        guard.configure(self.configuration)

    def handshakes(self, edge: WorkerClient, count: int) -> None:
        """So many signatures by each key."""
        for _ in range(count):
            for number, name in enumerate(self.keys, 1):
                edge.sign(number, SCHEMES[name], certificate_verify())

    def ticket_keys(self, guard: GuardClient) -> None:
        """Have guard derive the keys of a node."""
        edge = guard.edge(node=NODE)
        expected = {self.tickets[name] for name in self.tickets if name.startswith("node key")}
        assert set(edge.ticket_keys()[2:]) <= expected, "the chain was foretold wrongly"
        edge.socket.close()

    def requests(self, egress: WorkerClient, count: int) -> None:
        """So many requests for each token."""
        for _ in range(count):
            for number, token in enumerate(self.tokens.values(), 1):
                assert egress.token(number, upstream=UPSTREAM, caller=Caller()) == token.encode()

    def scan(self, guard: GuardClient, *arguments: str) -> Finding:
        """Look for every secret in guard's memory.

        Raises:
            AssertionError: the scanner could not look (exit code 2); never counted as clean.
        """
        needles = [value for name in self.keys for value in ("--key", f"{name}={name}.key")]
        needles += [value for name in self.tokens for value in ("--secret-file", f"{name}={name}.token")]
        needles += ["--secret-file", "content=content.key"]
        needles += [f"--number={name}={value.hex()}" for name, value in self.tickets.items()]
        return scrape(self.folder, *needles, "--pid", str(guard.process.pid), *arguments)


def ticket_numbers(chain: bytes) -> dict[str, bytes]:
    """The chain sealed three hours ago, and what follows from it up to the next hour (docs/protocol.md section 1)."""

    def expand(secret: bytes, info: bytes) -> bytes:
        return hmac.digest(secret, info + b"\1", "sha256")

    found = {}
    tag = hashlib.sha256(NODE.encode()).digest()[:16]
    for hour in range(-3, 3):
        root = expand(chain, b"root")
        found |= {
            f"chain {hour}": chain,
            f"root {hour}": root,
            f"node key {hour}": expand(root, b"node " + tag),
        }
        chain = expand(chain, b"next")
    return found


def scrape(folder: Path, *arguments: str) -> Finding:
    """Run the scanner. Exit code 0 is clean, 1 is hits; anything else fails."""
    done = subprocess.run(
        [sys.executable, str(SCRAPE), "--json", "-", *arguments], capture_output=True, cwd=folder, check=False
    )
    assert done.returncode in (0, 1), done.stderr.decode()
    return Finding(done.returncode, json.loads(done.stdout))
