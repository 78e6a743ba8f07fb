"""The sss pin: gathers shares until enough of them open the file.

Better than clevis in three cases (its quirks: a child of the wrong length aborts everything, a corrupt share among
the first ones gives a wrong key, an empty list hangs): a bad share counts as failed, every combination is checked
against the file's tag, and other shares are tried before giving up.

Order: the offline key when one is given, then what opens silently, and only then what rings a person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice

from unlatch.bootstrap.pins import tree
from unlatch.bootstrap.pins.race import in_parallel
from unlatch.bootstrap.pins.tree import Child, NoRecoveryKeyError, RecoveryPin, SssPin
from unlatch.errors import DamagedFileError, RefusedError, UnavailableError, UnlatchError
from unlatch.memguard._native import Secret, jwe_open, jwe_verify, sss_combine

MAX_COMBINATIONS = 1000
"""Only corrupt shares lead beyond the first; 10 of 13 are 286."""

SEVERITY = (16, 18, 10, 13, 17, 14, 11, 12, 19, 15)
"""Exit codes from "look here first" to "just try again": which failure names a sharing that did not open."""


def recover(compact: bytes, pin: SssPin, *, ask: Callable[[Child], Secret]) -> Secret:
    """Give the content key of a shared JWE.

    Args:
        compact: the JWE whose content key is shared.
        pin: its sharing.
        ask: gives a child's content key; called in a thread of its own.

    Raises:
        UnlatchError: too few shares; the class is that of the failure to look at first, and one that may be tried
            again only if trying again could bring enough shares.
    """
    shares: list[Secret] = []
    failures: list[tuple[Child, UnlatchError]] = []
    for stage in _stages(pin):
        for child, share in _gather(stage, failures, ask=ask):
            if len(share) != 2 * tree.PRIME_BYTES:
                failures.append((child, DamagedFileError(f"share has {len(share)} bytes", hint=tree.ALTERED)))
                continue
            shares.append(share)
            key = _combine(compact, pin, shares)
            if key is not None:
                return key
    raise _verdict(pin, shares, failures)


def _stages(pin: SssPin) -> Iterator[list[Child]]:
    offline = [child for child in pin.children if isinstance(child.pin, RecoveryPin)]
    others = [child for child in pin.children if not isinstance(child.pin, RecoveryPin)]
    yield offline
    yield [child for child in others if tree.is_silent(child.pin)]
    yield [child for child in others if not tree.is_silent(child.pin)]


def _gather(
    children: Sequence[Child], failures: list[tuple[Child, UnlatchError]], *, ask: Callable[[Child], Secret]
) -> Iterator[tuple[Child, Secret]]:
    def share_of(child: Child) -> Callable[[], Secret]:
        return lambda: jwe_open(child.compact, ask(child))

    for outcome in in_parallel([share_of(child) for child in children]):
        child = children[outcome.index]
        if outcome.value is not None:
            yield child, outcome.value
        elif isinstance(outcome.error, UnlatchError):
            failures.append((child, outcome.error))
        elif outcome.error is not None:
            raise outcome.error


def _combine(compact: bytes, pin: SssPin, shares: Sequence[Secret]) -> Secret | None:
    """Try every combination that holds the newest share."""
    *older, newest = shares
    for others in islice(combinations(older, pin.threshold - 1), MAX_COMBINATIONS):
        try:
            key = sss_combine(pin.prime, [*others, newest])
            jwe_verify(compact, key)
        except DamagedFileError:
            continue
        return key
    return None


def _verdict(
    pin: SssPin, shares: Sequence[Secret], failures: Sequence[tuple[Child, UnlatchError]]
) -> UnlatchError:
    if not failures or len(shares) >= pin.threshold:
        return DamagedFileError(
            f"no {pin.threshold} of {len(shares)} shares open the file",
            hint="the file was altered after sealing, or a share belongs to another file: restore it from a copy",
        )
    # The offline branch without its key is worth a word only where nothing else failed.
    named = [error for _, error in failures if not isinstance(error, NoRecoveryKeyError)]
    errors = sorted(named or (error for _, error in failures), key=_severity)
    retryable = [error for error in errors if isinstance(error, UnavailableError)]
    if len(shares) + len(retryable) >= pin.threshold:
        first: UnlatchError = retryable[0]
    else:
        first = next((error for error in errors if isinstance(error, RefusedError)), errors[0])
    if len({str(error) for error in errors}) == 1:
        return first
    told = "; ".join(dict.fromkeys(str(error) for error in errors))
    # Its class and hint stay: only the words grow.
    first.args = (f"{len(shares)} of {pin.threshold} shares: {told}",)
    return first


def _severity(error: UnlatchError) -> int:
    return SEVERITY.index(error.exit_code) if error.exit_code in SEVERITY else len(SEVERITY)
