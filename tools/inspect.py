"""unlatch inspect: says in words when and by whom a sealed file opens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from unlatch.bootstrap.pins.tree import Pin
    from unlatch.bootstrap.sealed import SealedFile

TRUST = {
    "pinned": "its signing key was pinned by thumbprint",
    "file": "its advertisement came from a file",
    "context": "its signing key came from a saved context",
    "first-use": "its signing key was TRUSTED ON FIRST USE: nobody compared it",
}


@click.command(name="inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def command(file: Path, as_json: bool) -> None:
    """Say in words when and by whom a sealed file opens. Asks nobody.

    What the header says is authenticated only when the file opens: compare the digest with a copy you trust.
    """
    from unlatch.bootstrap import files

    sealed = files.read_sealed(file)
    if as_json:
        click.echo(json.dumps(facts(sealed), indent=2, ensure_ascii=False))
        return
    for line in words(sealed):
        click.echo(_printable(line))


def facts(sealed: SealedFile) -> dict[str, object]:
    """Everything that the header says, for programs."""
    return {
        "digest": sealed.digest,
        "workload": sealed.workload,
        "bundle": sealed.is_bundle,
        "unlatch": dict(sealed.labels),
        "opens_with": _pin_facts(sealed.pin),
        "clevis": not _foreign(sealed),
        "warnings": list(_warnings(sealed)),
    }


def words(sealed: SealedFile) -> Iterator[str]:
    """The same for people, line by line."""
    labels = sealed.labels
    yield f"{'bundle' if sealed.is_bundle else 'one secret, raw'} for workload {sealed.workload or '(none)'}"
    if isinstance(labels.get("created"), str):
        yield f"  sealed   {labels['created']}"
    yield f"  digest   {sealed.digest}"
    secrets = labels.get("secrets")
    if isinstance(secrets, dict):
        unbound = labels.get("unbound")
        for name, kind in secrets.items():
            free = isinstance(unbound, list) and name in unbound
            yield f"  secret   {name}: {kind}{' (UNBOUND: no sealed rule limits its use)' if free else ''}"
    own = labels.get("labels")
    if isinstance(own, dict):
        yield from (f"  label    {name} = {value}" for name, value in own.items())
    yield "opens when"
    yield from _tree(sealed.pin, indent="  ")
    trust = labels.get("trust")
    if isinstance(trust, dict):
        yield from (f"trust: {url}: {TRUST.get(str(how), str(how))}" for url, how in trust.items())
    yield _clevis_words(sealed)
    yield from (f"warning: {text}" for text in _warnings(sealed))


def _tree(pin: Pin, *, indent: str) -> Iterator[str]:
    from unlatch.bootstrap.pins import tree

    match pin:
        case tree.TangPin():
            if pin.workload:
                yield f"{indent}a person approves {pin.workload} at {pin.url}"
            else:
                yield f"{indent}{pin.url} can be reached (a Tang server: no person is asked)"
            yield f"{indent}  key      {pin.kid}"
            for thumbprint in pin.thumbprints:
                yield f"{indent}  signed   {thumbprint}"
        case tree.SssPin():
            count = len(pin.children)
            which = (
                "any of these happens" if pin.threshold == 1 else f"{pin.threshold} of these {count} happen"
            )
            yield f"{indent}{'this happens' if count == 1 else which}"
            for child in pin.children:
                yield from _tree(child.pin, indent=indent + "  ")
        case tree.Tpm2Pin():
            yield f"{indent}the TPM that sealed it gives the key back, and {pin.needs}"
        case tree.Pkcs11Pin():
            yield f"{indent}{pin.needs} and gets its PIN"
            yield f"{indent}  key      {pin.uri.public_text}"
        case tree.RecoveryPin():
            yield f"{indent}somebody brings the offline recovery key"
            yield f"{indent}  key      {pin.kid}"
        case tree.NullPin():
            yield f"{indent}anybody reads it: the null pin protects nothing"
        case tree.UnknownPin():
            yield f"{indent}pin {pin.name!r} agrees (this version cannot open it)"
        case tree.BrokenPin():
            yield f"{indent}never: this branch is damaged ({pin.reason})"


def _pin_facts(pin: Pin) -> dict[str, object]:
    from unlatch.bootstrap.pins import tree

    match pin:
        case tree.TangPin():
            return {
                "pin": "tang",
                "url": pin.url,
                "workload": pin.workload,
                "kid": pin.kid,
                "thumbprints": list(pin.thumbprints),
            }
        case tree.SssPin():
            children = [_pin_facts(child.pin) for child in pin.children]
            return {"pin": "sss", "threshold": pin.threshold, "children": children}
        case tree.Tpm2Pin():
            pcrs = {"bank": pin.bank, "pcrs": list(pin.pcrs)} if pin.pcrs else None
            signed = (
                None if pin.authority is None else {"authority": _digest(pin.authority), "for": pin.reference}
            )
            return {"pin": "tpm2", "hash": pin.hash, "key": pin.key, "pcrs": pcrs, "signed_pcrs": signed}
        case tree.Pkcs11Pin():
            return {"pin": "pkcs11", "uri": pin.uri.public_text, "padding": pin.padding}
        case tree.RecoveryPin():
            return {"pin": "recovery", "kid": pin.kid}
        case tree.NullPin():
            return {"pin": "null"}
        case tree.UnknownPin():
            return {"pin": pin.name, "known": False}
        case tree.BrokenPin():
            return {"pin": None, "broken": pin.reason}


def _digest(spki: bytes) -> str:
    """SHA-256 of a public key in base64url, as `tpm policy make-key` shows it."""
    import hashlib

    from unlatch.bootstrap import jose

    return jose.encode(hashlib.sha256(spki).digest())


def _warnings(sealed: SealedFile) -> Iterator[str]:
    from unlatch.bootstrap.doctor import losses
    from unlatch.bootstrap.pins import tree

    leaves = list(tree.leaves(sealed.pin))
    if losses(sealed.pin) <= 1:
        yield "one way in: if that server or its key is lost, the file never opens again (seal with --recovery or a second gate)"
    if any(isinstance(leaf, tree.RecoveryPin) for leaf in leaves):
        yield "whoever holds the recovery key opens this file past every gate and person"
    if any(isinstance(leaf, tree.NullPin) for leaf in leaves):
        yield "a null pin holds its key in the file"
    tokens = [leaf for leaf in leaves if isinstance(leaf, tree.Pkcs11Pin)]
    if any(token.uri.pin_value is not None for token in tokens):
        yield "the token's PIN stands in clear in this file: change the PIN and seal again with unlatch"
    unbound = sealed.labels.get("unbound")
    if isinstance(unbound, list) and unbound:
        yield f"no sealed rules for {', '.join(map(str, unbound))}: the configuration alone decides where it goes"


def _foreign(sealed: SealedFile) -> bool:
    """Whether clevis has no program for it: only the offline key, signed PCR values or RSA-OAEP."""
    from unlatch.bootstrap.pins import tree

    pin = sealed.pin
    return (
        isinstance(pin, tree.RecoveryPin | tree.BrokenPin)
        or (isinstance(pin, tree.Tpm2Pin) and pin.authority is not None)
        or (isinstance(pin, tree.Pkcs11Pin) and pin.key_digest is not None)
    )


def _clevis_words(sealed: SealedFile) -> str:
    from unlatch.bootstrap.pins import tree

    if _foreign(sealed):
        return "clevis decrypt does not open it"
    if any(isinstance(leaf, tree.TangPin) and leaf.workload for leaf in tree.leaves(sealed.pin)):
        return "clevis decrypt opens it too, where the gate lets stock clients ask"
    return "clevis decrypt opens it too"


def _printable(text: str) -> str:
    """Header text is not ours: no escape sequence of it reaches the terminal."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
