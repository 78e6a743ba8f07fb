"""From what a command line says about hardware to the rules of a policy."""

from __future__ import annotations

from pathlib import Path

from unlatch.bootstrap.policy import Rule, TangRule, Tpm2Rule, parse_pcrs
from unlatch.errors import ConfigError, UsageError
from unlatch.memguard.custodian.tss import is_present


def tpm_rule(*, wanted: bool, pcrs: str | None, policy_key: Path | None, reference: str) -> list[Rule]:
    """Give the TPM's rule, or none.

    Args:
        wanted: whether a TPM was asked for with nothing else.
        pcrs: `[BANK:]7,11`: these PCRs as they are now.
        policy_key: PEM of the key that signs PCR values.
        reference: what its signature must be for.

    Raises:
        ConfigError: the key is none; UsageError: two ways at once.
    """
    if not (wanted or pcrs or policy_key):
        return []
    if pcrs and policy_key:
        raise UsageError(
            "--pcrs and --pcr-policy exclude each other", hint="the policy's signer chooses PCRs and values"
        )
    bank, indices = parse_pcrs(pcrs) if pcrs else (None, ())
    authority = _policy_key(policy_key) if policy_key else None
    return [Tpm2Rule(bank=bank, pcrs=indices, authority=authority, reference=reference)]


def advice(rule: Rule) -> str | None:
    """Say where a TPM would help: a thief who is approved by mistake would still need this machine."""
    if isinstance(rule, TangRule) and is_present():
        return "this machine has a TPM: with --tpm the file opens nowhere else"
    return None


def _policy_key(path: Path) -> bytes:
    from unlatch.bootstrap.pins.signed_pcrs import read_public_key

    try:
        return read_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read: {error.strerror}, {path}") from error
