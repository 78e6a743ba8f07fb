"""From what a command line says about hardware to the rules of a policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unlatch.bootstrap.policy import Pkcs11Rule, Rule, SssRule, TangRule, Tpm2Rule, parse_pcrs
from unlatch.errors import ConfigError, UsageError
from unlatch.memguard.custodian.tss import is_present
from unlatch.memguard.custodian.uri import TokenUri


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


def token_rule(uri: str | None) -> list[Rule]:
    """Give the rule for an RSA key in a token, or none.

    Raises:
        ConfigError: the URI is none.
    """
    if uri is None:
        return []
    TokenUri.parse(uri)
    return [Pkcs11Rule(uri)]


def advice(rule: Rule) -> Iterator[str]:
    """Say what the sealer should know about a rule, line by line."""
    if isinstance(rule, TangRule) and is_present():
        # A thief who is approved by mistake would still need this machine.
        yield "hint: this machine has a TPM: with --tpm the file opens nowhere else"
    for leaf in _leaves(rule):
        if isinstance(leaf, Pkcs11Rule) and leaf.mechanism != "RSA-PKCS":
            yield "warning: clevis decrypt cannot open the token's part: it knows PKCS#1 v1.5 only, this is RSA-OAEP"
        if isinstance(leaf, Tpm2Rule) and leaf.authority is not None:
            yield "warning: clevis decrypt cannot open the TPM's part: it knows no signed PCR values"


def _leaves(rule: Rule) -> Iterator[Rule]:
    if isinstance(rule, SssRule):
        for child in rule.children:
            yield from _leaves(child)
    else:
        yield rule


def _policy_key(path: Path) -> bytes:
    from unlatch.bootstrap.pins.signed_pcrs import read_public_key

    try:
        return read_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read: {error.strerror}, {path}") from error
