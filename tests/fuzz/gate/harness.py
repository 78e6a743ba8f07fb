"""Changes right messages of the gate byte by byte and throws them at its parsers: refused as ours, or read, and in time.

Without coverage: the seeds are whole, signed messages, and the changes know the formats (lengths, JSON tokens, pieces of
other seeds). A planted fault must be found first, else the run is worth nothing.
"""

from __future__ import annotations

import base64
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from support.gate_world import NOW, World
from support.host_keys import HostKeyInMemory
from support.receipts import ReceiptKey
from support.ssh_keys import KINDS, SshKey

from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.receipt import verify_receipt
from unlatch.bootstrap.identity.proof import Asking, ProofError, PublicLine
from unlatch.errors import UnlatchError
from unlatch.gate import wire
from unlatch.gate.audit import verify_log
from unlatch.gate.checkpoint import read_checkpoint
from unlatch.gate.enrolment import read_enrolment
from unlatch.gate.entry import read_entry
from unlatch.gate.identity import identify
from unlatch.gate.protocol import StatusError, read_recovery, route
from unlatch.gate.sshsig import PublicKey, armor, verify_sshsig
from unlatch.gate.statement import Statement

SECONDS_FOR_ONE = 2.0
TOKENS = [b'"', b"{", b"}", b"[" * 40, b"]", b":", b",", b"null", b"true", b"-0", b"1e999", b"9" * 40, b"\\ud800", b"\n", b"\0", b"=", b"+", b"\xff\xff\xff\xff", b"\0\0\0\0", "\u2014".encode()]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A parser, right messages for it, and what it may raise."""

    name: str
    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    refusals: tuple[type[Exception], ...] = (UnlatchError,)


class PlantedError(Exception):
    """Only the planted fault raises it."""


def planted(data: bytes) -> None:
    """A parser with a fault: a brace inside the first eight bytes after a quote."""
    if b'"{' in data[:12]:
        raise PlantedError


def targets() -> list[Target]:
    """Every parser of bytes from outside."""
    world = World(operators=("jo",))
    host = HostKeyInMemory()
    world.add_host("web1", host)
    case = world.request(host=host)
    asking = Asking("pay", case.receipt.kid, case.receipt.point, case.claims or b"")
    proof = host.prove(asking, world.log.challenge(time=NOW))
    signed = world.signed(case)
    keys = [SshKey(kind) for kind in KINDS]
    blobs = tuple(base64.b64decode("".join(key.sign(b"m", namespace="n").splitlines()[1:-1])) for key in keys)
    receipt = ReceiptKey()
    token = receipt.sign(receipt.receipt(base="https://g", now=NOW))
    point = b'{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}' % (b"A" * 43, b"A" * 43)
    export = b'{"unlatch-audit":1,"checkpoint":""}\n' + b"\n".join(world.entries)
    return [
        Target("statement", Statement.parse, (signed.statement,)),
        Target("enrolment", read_enrolment, tuple(data for data, _ in world.chain)),
        Target("entry", read_entry, tuple(world.entries)),
        Target("claims", Claims.parse, (case.claims or b"",), (ValueError,)),
        Target("receipt", lambda data: verify_receipt(data, keys=[receipt.public]), (token,)),
        Target("signature", lambda data: verify_sshsig(armor(data), b"m", namespace="n"), blobs),
        Target("armor", lambda data: verify_sshsig(data.decode("latin-1"), b"m", namespace="n"), (signed.signature.encode(),)),
        Target("public key", lambda data: PublicKey.parse(data.decode("latin-1")), tuple(key.line.encode() for key in keys)),
        Target("checkpoint", lambda data: read_checkpoint(data.decode("utf-8", "replace"), keys=world.log.public), (world.note().encode(),)),
        Target("proof", lambda data: identify(data.decode("latin-1"), asking, roster=world.roster, now=NOW), (proof.encode(), str(host.public).encode())),
        Target("host key", lambda data: PublicLine.parse(data.decode("latin-1")), (str(host.line).encode(),), (ProofError,)),
        Target("recovery", lambda data: read_recovery(data, kid="k", exchange={"k": {"crv": "P-256", "kty": "EC", "x": "", "y": ""}}, signing=()), (point,), (StatusError,)),
        Target("path", lambda data: route("GET", data.decode("latin-1")), (b"/s/pay/adv/x", b"/s/pay/wait/x", b"/r/A"), (StatusError,)),
        Target("frame", wire.read_frame, (b'{"do":"judge","statements":[{"statement":"YQ"}]}',)),
        Target("export", lambda data: verify_log(data.splitlines(), fingerprint=world.roster.fingerprint), (export,)),
    ]  # fmt: skip


def changed(data: bytes, seeds: tuple[bytes, ...], chance: random.Random) -> bytes:
    """One to six changes."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(out) + 1)
        match chance.randrange(6):
            case 0 if out:
                out[place % len(out)] = chance.randrange(256)
            case 1 if out:
                out[place % len(out)] ^= 1 << chance.randrange(8)
            case 2:
                out[place:place] = chance.choice(TOKENS)
            case 3:
                del out[place : place + chance.randint(1, 16)]
            case 4:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                out[place:place] = other[start : start + chance.randint(1, 64)]
            case _:
                out[place : place + 1] = out[place : place + chance.randint(1, 8)] * chance.randint(2, 9)
    return bytes(out)


def fuzz(target: Target, *, seconds: float, chance: random.Random) -> int:
    """Give the number of inputs; raises what the parser should not have."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = changed(chance.choice(target.seeds), target.seeds, chance)
        signal.setitimer(signal.ITIMER_REAL, SECONDS_FOR_ONE)
        try:
            target.parse(data)
        except target.refusals:
            pass
        except Exception as error:
            error.add_note(f"fuzz/gate: {target.name} failed on {data!r}")
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        count += 1
    return count


def main() -> None:
    """Find the planted fault, then fuzz each target for some seconds."""
    seconds, seed = float(sys.argv[1]), random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    sys.stdout.write(f"fuzz/gate: seed {seed}\n")
    try:
        fuzz(Target("planted", planted, (b'{"a":"b"}',)), seconds=30, chance=chance)
    except PlantedError:
        pass
    else:
        sys.exit("fuzz/gate: the planted fault was not found: this fuzzer sees nothing")
    found = targets()
    for target in found:
        count = fuzz(target, seconds=seconds / len(found), chance=chance)
        sys.stdout.write(f"fuzz/gate: {target.name} read or refused {count} inputs\n")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    main()
