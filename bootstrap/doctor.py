"""What is wrong or weak about sealed files: by themselves, and held against what their gates and hardware say. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from unlatch.bootstrap import jose
from unlatch.bootstrap.advertisement import Advertisement
from unlatch.bootstrap.approval.receipt import pinned_keys
from unlatch.bootstrap.pins import tree
from unlatch.bootstrap.pins.pkcs11_header import Pkcs11Pin
from unlatch.bootstrap.pins.tpm2_header import Tpm2Pin
from unlatch.bootstrap.pins.tree import BrokenPin, NullPin, Pin, RecoveryPin, SssPin, TangPin, UnknownPin
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import UnlatchError
from unlatch.memguard.custodian.uri import TokenUri
from unlatch.memguard.doctor.finding import Finding, failure, ok, warning

CLOCK_WARNING, CLOCK_FAILURE = 30.0, 300.0
"""Seconds. A checkpoint may be 60 s ahead of a clock, and a receipt lives for minutes (docs/operations.md)."""
A_DAY = 86400.0
SEAL_AGAIN = "seal the secret again: unlatch seal"


@dataclass(frozen=True, slots=True)
class Server:
    """What a Tang server or gate answered to a question for its advertisement. `trouble` is why there is none."""

    advertisement: Advertisement | None = None
    date: float | None = None
    """Unix seconds of its Date header."""
    trouble: UnlatchError | None = None


def losses(pin: Pin) -> int:
    """How many servers or keys must be lost before a file never opens again."""
    match pin:
        case SssPin():
            needed = len(pin.children) - pin.threshold + 1
            return sum(sorted(losses(child.pin) for child in pin.children)[:needed])
        case BrokenPin():
            return 0
        case _:
            return 1


def check(
    sealed: SealedFile, where: str, *, now: float, gates: frozenset[str] | None = None
) -> Iterator[Finding]:
    """Judge a sealed file by its header, which is authenticated only when it opens.

    Args:
        sealed: the file.
        where: its name.
        now: Unix seconds.
        gates: thumbprints of `unlock.gates`; None or empty: the file alone is believed.
    """
    yield _ways_in(sealed, where)
    leaves = list(tree.leaves(sealed.pin))
    for leaf in leaves:
        yield from _leaf(leaf, where, gates=gates or None)
    unbound = sealed.labels.get("unbound")
    if isinstance(unbound, list) and unbound:
        yield warning(
            f"no sealed rules for {', '.join(map(str, unbound))}: the configuration alone decides where it goes",
            where,
            f"{SEAL_AGAIN} with --upstream, --path and --caller",
        )
    elif not sealed.is_bundle:
        yield warning(
            "one raw secret without sealed rules: as a private key it signs for every name",
            where,
            f"{SEAL_AGAIN} --key NAME=FILE --names …",
        )
    if (trust := sealed.labels.get("trust")) and isinstance(trust, dict):
        for url in (url for url, how in trust.items() if how == "first-use"):
            yield warning(
                f"{url} was trusted on first use: nobody compared its key",
                where,
                "compare the thumbprint that unlatch inspect shows with `unlatch gate keys` there, then seal again with --thp",
            )
    if (made := _created(sealed)) is not None and made > now + A_DAY:
        yield failure(
            "it was sealed in the future: the clock here is wrong", where, "timedatectl set-ntp true"
        )


def _ways_in(sealed: SealedFile, where: str) -> Finding:
    count = losses(sealed.pin)
    if count == 0:
        return failure(
            "it never opens: too many of its branches are damaged",
            where,
            "fetch the file again, or seal again",
        )
    if count == 1:
        return warning(
            "one way in: if that server or its key is lost, the file never opens again",
            where,
            "seal with --recovery FILE, or to two gates (docs/operations.md)",
        )
    return ok(f"opens until {count} servers or keys are lost", where)


def _leaf(pin: Pin, where: str, *, gates: frozenset[str] | None) -> Iterator[Finding]:
    match pin:
        case TangPin() if pin.workload is not None:
            try:
                pinned_keys(pin.signing_keys, gates=gates)
            except UnlatchError as error:
                yield failure(str(error), where, error.hint)
        case RecoveryPin():
            yield ok("an offline recovery key opens it, past every gate and person", where)
        case NullPin():
            yield failure("a null pin holds its key in the file: anybody reads it", where, SEAL_AGAIN)
        case UnknownPin():
            yield warning(
                f"this version does not open pin {pin.name!r}",
                where,
                "clevis decrypt may, where the pin's program is installed",
            )
        case BrokenPin():
            yield warning(f"a branch is damaged ({pin.reason})", where, "fetch the file again, or seal again")
        case Pkcs11Pin() if pin.uri.pin_value is not None:
            yield failure(
                "the token's PIN stands in clear in the file",
                where,
                "change the PIN, then seal again with unlatch",
            )


def check_server(pin: TangPin, server: Server, where: str, *, now: float) -> Iterator[Finding]:
    """Judge what a server of a sealed file answered.

    Args:
        pin: whom the file asks.
        server: what it said.
        where: the file's name.
        now: Unix seconds when it answered.
    """
    if server.trouble is not None:
        yield failure(f"{where} asks it: {server.trouble}", pin.url, server.trouble.hint)
    if server.advertisement is not None:
        yield _advertised(pin, server.advertisement, where)
    if server.date is not None:
        yield clock(server.date, now, pin.url)


def _advertised(pin: TangPin, advertisement: Advertisement, where: str) -> Finding:
    if not set(advertisement.thumbprints) & set(pin.thumbprints):
        return failure(
            f"none of the keys that {where} pins signs its advertisement",
            pin.url,
            "do not approve anything: compare with `unlatch gate keys` on the gate itself",
        )
    if jose.find_by_thumbprint(pin.kid, advertisement.keys) is None:
        return warning(
            f"the key of {where} is not advertised any more: it opens until the key is retired",
            pin.url,
            SEAL_AGAIN,
        )
    return ok(f"answers, and knows the key of {where}", pin.url)


def clock(theirs: float, ours: float, where: str) -> Finding:
    """Compare two clocks, in Unix seconds."""
    apart = ours - theirs
    words = f"this clock is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the server's"
    if abs(apart) >= CLOCK_FAILURE:
        return failure(
            f"{words}: receipts will be refused", where, "timedatectl set-ntp true, on the one that is wrong"
        )
    if abs(apart) >= CLOCK_WARNING:
        return warning(words, where, "timedatectl set-ntp true, on the one that is wrong")
    return ok("its clock and ours agree", where)


def check_tpm(pin: Tpm2Pin, banks: Mapping[str, Sequence[int]], where: str) -> Finding:
    """Hold a TPM's PCR banks against what a file needs."""
    if pin.bank is None or not pin.pcrs:
        return ok(f"the TPM answers, and {where} needs no PCR", "TPM")
    missing = sorted(set(pin.pcrs) - set(banks.get(pin.bank, ())))
    if missing:
        return failure(
            f"{where} needs PCR {', '.join(map(str, missing))} of bank {pin.bank}, which this TPM does not keep",
            "TPM",
            f"banks here: {', '.join(sorted(name for name, kept in banks.items() if kept)) or 'none'}; tpm2_pcrallocate changes them",
        )
    return ok(f"the TPM keeps the PCRs that {where} needs", "TPM")


def check_token(wanted: TokenUri, tokens: Sequence[Mapping[str, Any]], where: str) -> Iterator[Finding]:
    """Hold the tokens that fit a URI against what a file or key needs."""
    uri = wanted.public_text
    if not tokens:
        yield failure(f"no token fits the URI of {where}", uri, "unlatch hsm list shows what is there")
        return
    if len(tokens) > 1:
        yield warning(
            f"{len(tokens)} tokens fit the URI of {where}", uri, "name one: token= or serial= in the URI"
        )
    for token in tokens:
        yield from (
            warning(f"token {token['label']}: {text}", uri, "unlatch hsm check URI")
            for text in token["warnings"]
        )
    yield ok(f"token {tokens[0]['label']} is there for {where}", uri)


def _created(sealed: SealedFile) -> float | None:
    text = sealed.labels.get("created")
    try:
        return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
    except ValueError:
        return None
