"""unlatch tpm: keys and PCR policies of this machine's TPM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlatch.errors import ConfigError, UnlatchError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from unlatch.memguard.custodian.tss import Tpm

FAILURES, WARNINGS = 22, 23
OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
FORCE = click.option("--force", is_flag=True, help="Overwrite an existing file.")
JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
MAX_KEY_BYTES = 64 * 1024


@click.group(name="tpm")
def command() -> None:
    """Keys and PCR policies of this machine's TPM.

    It is reached as UNLATCH_TCTI or TPM2TOOLS_TCTI says, else by the kernel's device.
    """


@command.command("list")
@JSON
def list_command(as_json: bool) -> None:
    """Say what this TPM is, which PCR banks it has, and what stands in it."""
    from unlatch.memguard.custodian import tpm_policy
    from unlatch.memguard.custodian.tss import Tpm

    with Tpm() as tpm:
        facts = {
            "device": tpm.tcti,
            "manufacturer": tpm.properties()
            .get("manufacturer", 0)
            .to_bytes(4, "big")
            .decode("ascii", "replace")
            .strip("\0 "),
            "banks": {name: sorted(indices) for name, indices in tpm.banks().items()},
            "persistent": [f"{handle:#x}" for handle in tpm.handles(0x81000000)],
            "loaded": len(tpm.handles(0x80000000)),
            "epoch": tpm_policy.counter(tpm),
        }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | dict) else value
        click.echo(f"{name:<13} {'none' if shown in (None, '') else shown}")


@command.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.pass_context
def check(context: click.Context, file: Path | None) -> None:
    """Check the TPM, and the key in FILE, by sealing and signing something.

    Exit codes: 0 well, 22 it does not work, 23 it works, with warnings.
    """
    from unlatch.memguard.custodian import workbench
    from unlatch.memguard.custodian.tss import Tpm

    warned = False
    try:
        with Tpm() as tpm:
            click.echo(f"ok       {tpm.tcti} answers")
            _seal_something(tpm)
            click.echo("ok       seals and unseals")
            for line in _doubts(tpm):
                warned = True
                click.echo(f"warning  {line}")
        if file is not None:
            with workbench.in_tpm(workbench.read_tpm_key(_read(file)), name=str(file)) as found:
                found.try_out()
                click.echo(
                    f"ok       {file}: {found.key.algorithm}, signs {', '.join(f'{one:#06x}' for one in found.key.schemes)}"
                )
    except UnlatchError as error:
        click.echo(f"failed   {error}")
        if error.hint:
            click.echo(f"hint     {error.hint}")
        context.exit(FAILURES)
    context.exit(WARNINGS if warned else 0)


def _seal_something(tpm: Tpm) -> None:
    from unlatch.memguard._native import Secret
    from unlatch.memguard.custodian import tpm_blobs as blobs

    with (
        tpm.primary(blobs.primary_template("ecc", "sha256")) as parent,
        tpm.session(salt=parent, encrypt="commands") as inward,
        tpm.session(salt=parent, encrypt="answers") as outward,
    ):
        public, private = tpm.create_sealed(
            parent, blobs.sealed_template("sha256", b""), Secret.random(32), session=inward
        )
        with tpm.loaded(parent, public, private, session=outward) as sealed:
            tpm.unseal(sealed, session=outward)


def _doubts(tpm: Tpm) -> Iterator[str]:
    if tpm.tcti.startswith("device:/dev/tpm") and not tpm.tcti.startswith("device:/dev/tpmrm"):
        yield "no resource manager: other programs' objects and ours compete for three places; use /dev/tpmrm0"
    if "sha256" not in tpm.banks():
        yield "the SHA-256 bank of PCRs is not active: switch it on in the firmware"
    facts = tpm.properties()
    if facts.get("lockout_counter", 0):
        yield f"{facts['lockout_counter']} wrong passwords were counted, {facts.get('max_auth_fail')} lock the TPM"
    if loaded := len(tpm.handles(0x80000000)):
        yield f"{loaded} objects of other programs are loaded"


@command.command("make-key")
@click.option(
    "--kind", default="ecc", show_default=True, help="ecc, ecc384, ecc521, rsa, rsa3072 or rsa4096."
)
@click.option(
    "--parent", metavar="HANDLE", help="A persistent storage key, 0x81…; default: the owner's primary."
)
@OUT
@FORCE
def make_key(kind: str, parent: str | None, out: Path, force: bool) -> None:
    """Make a signing key that only this TPM can use: a TSS2 PRIVATE KEY file, as OpenSSL's tpm2 provider reads it."""
    from unlatch.bootstrap import files
    from unlatch.memguard.custodian import keyfile
    from unlatch.memguard.custodian.tpm_keys import make_key as make
    from unlatch.memguard.custodian.tss import OWNER

    files.refuse_existing(out, force=force)
    try:
        handle = OWNER if parent is None else int(parent, 16)
    except ValueError as error:
        raise UsageError(f"--parent {parent}: no handle", hint="--parent 0x81000001") from error
    files.write(out, keyfile.write_tpm(make(kind, parent=handle)), force=force)
    click.echo(f"wrote {out}\nnext: unlatch tpm csr {out} --names HOST --out FILE", err=True)


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--names", required=True, metavar="A,B", help="Hosts that the certificate shall hold.")
@OUT
@FORCE
def csr(file: Path, names: str, out: Path, force: bool) -> None:
    """Write a certificate request for the TPM key in FILE. The TPM signs it; guard has no part in this."""
    from unlatch.bootstrap import files
    from unlatch.memguard.custodian import workbench

    files.refuse_existing(out, force=force)
    with workbench.in_tpm(workbench.read_tpm_key(_read(file)), name=str(file)) as found:
        request = found.request(names.split(","))
    files.write(out, request, force=force, mode=files.PUBLIC)
    click.echo(f"wrote {out}", err=True)


@command.group()
def policy() -> None:
    """PCR values that a key signs, so that an update of firmware or kernel needs no resealing.

    Seal with --pcr-policy KEY.pub; sign values with KEY; put the signed file beside the sealed one as FILE.pcrs.
    """


@policy.command("make-key")
@OUT
@FORCE
def policy_make_key(out: Path, force: bool) -> None:
    """Make a policy key: FILE signs and belongs to whoever releases updates, FILE.pub is for sealing."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from unlatch.bootstrap import files

    public_file = out.with_name(f"{out.name}.pub")
    for path in (out, public_file):
        files.refuse_existing(path, force=force)
    key = ec.generate_private_key(ec.SECP256R1())
    shape = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    files.write(out, key.private_bytes(*shape), force=force)
    files.write(public_file, public, force=force, mode=files.PUBLIC)
    click.echo(f"wrote {out} and {public_file}", err=True)


@policy.command()
@click.option("--key", type=click.Path(path_type=Path), required=True, help="The policy key (PEM).")
@click.option(
    "--pcrs", required=True, metavar="[BANK:]7,11", help="Which PCRs; their present values, unless given."
)
@click.option(
    "--value", "values", multiple=True, metavar="PCR=HEX", help="A value to come, instead of the present one."
)
@click.option("--epoch", type=int, help="Good while the TPM's epoch is not higher; without it: for ever.")
@click.option("--for", "reference", default="", metavar="TEXT", help="Only for files sealed for this text.")
@OUT
def sign(key: Path, pcrs: str, values: tuple[str, ...], epoch: int | None, reference: str, out: Path) -> None:
    """Sign PCR values, and add them to the values in the file --out.

    Example: unlatch tpm policy sign --key policy.pem --pcrs sha256:7,11 --epoch 3 --out pay.jwe.pcrs
    """
    from unlatch.bootstrap import files
    from unlatch.bootstrap.pins import signed_pcrs
    from unlatch.bootstrap.policy import parse_pcrs

    bank, indices = parse_pcrs(pcrs)
    bank = bank or "sha256"
    raw = _values(bank, indices, values)
    made = signed_pcrs.sign(_policy_key(key), bank, indices, raw, epoch=epoch, reference=reference)
    before = signed_pcrs.read(_read(out)) if out.exists() else []
    files.write(out, signed_pcrs.write([*before, made]), force=True, mode=files.PUBLIC)
    click.echo(f"signed {bank}:{','.join(map(str, indices))}; {out} holds {len(before) + 1}", err=True)


@policy.command()
@click.argument("number", type=int, required=False)
def epoch(number: int | None) -> None:
    """Show this TPM's epoch, or raise it to NUMBER: values signed for lower epochs open nothing here any more."""
    from unlatch.memguard.custodian import tpm_policy
    from unlatch.memguard.custodian.tss import Tpm

    with Tpm() as tpm:
        now = tpm_policy.counter(tpm) if number is None else tpm_policy.advance(tpm, number)
    click.echo("none" if now is None else now)


def _values(bank: str, indices: tuple[int, ...], given: tuple[str, ...]) -> bytes:
    """Raw values in ascending order: as given, else read."""
    from unlatch.memguard.custodian.tpm_blobs import digest_size
    from unlatch.memguard.custodian.tss import Tpm

    known: dict[int, bytes] = {}
    for text in given:
        index, equals, value = text.partition("=")
        try:
            known[int(index)] = bytes.fromhex(value)
        except ValueError as error:
            raise UsageError(f"--value {text}: expected PCR=HEX") from error
        if not equals or int(index) not in indices or len(known[int(index)]) != digest_size(bank):
            raise UsageError(f"--value {text}: not one of {indices}, or not {digest_size(bank)} bytes")
    missing = [index for index in sorted(set(indices)) if index not in known]
    if missing:
        with Tpm() as tpm:
            known |= dict(zip(missing, tpm.pcr_values(bank, missing), strict=True))
    return b"".join(known[index] for index in sorted(set(indices)))


def _policy_key(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is no private key in PEM without a passphrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path} is not on P-256", hint="unlatch tpm policy make-key --out FILE")
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES * 4)
    except OSError as error:
        raise ConfigError(f"cannot read: {error.strerror}, {path}") from error
