"""The tpm2 pin: a content key that one TPM gives back, while its PCRs say what they said.

Rule 1: only one thread at a time talks to the TPM: without a resource manager it has room for three objects.
Rule 2: nothing stays in the TPM: every object and session is flushed (clevis leaks a session per sealing).
Rule 3: the policy session has the hash of the header; clevis opens only those with SHA-256 (its bug), so none other
is made together with PCRs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from unlatch.bootstrap import jose
from unlatch.bootstrap.pins.signed_pcrs import SignedPcrs
from unlatch.bootstrap.pins.tpm2_header import SIGNED_PIN, Tpm2Pin
from unlatch.bootstrap.policy import PolicyError, Tpm2Rule
from unlatch.errors import ConfigError, DamagedFileError, PolicyRefusedError
from unlatch.memguard._native import Secret, content_key_from_jwk, content_key_to_jwk, jwe_verify
from unlatch.memguard.custodian import tpm_blobs as blobs
from unlatch.memguard.custodian import tpm_policy
from unlatch.memguard.custodian.tss import Handle, Tpm, TpmRefusedError

ONE_AT_A_TIME = threading.Lock()
CHANGED = (
    "firmware, boot loader, kernel or their settings changed since sealing: boot the old ones, open the file another"
    " way and seal it again, or have the new values signed (unlatch tpm policy sign)"
)
PREFERRED_BANK = "sha256"


def recover(
    compact: bytes, pin: Tpm2Pin, *, tcti: str | None = None, signed: Sequence[SignedPcrs] = ()
) -> Secret:
    """Give the content key of a JWE sealed by this machine's TPM.

    Args:
        compact: the JWE.
        pin: what its header says.
        tcti: how the TPM is reached; None finds it.
        signed: PCR values that an authority signed, for pins that want them.

    Raises:
        DamagedFileError: another TPM sealed it, or the file was altered.
        PolicyRefusedError: the PCRs are not those that the policy wants.
        ConfigError: no TPM, or no library for it.
        UnavailableError: the TPM does not answer, or is full.
    """
    with ONE_AT_A_TIME, ExitStack() as stack:
        tpm = stack.enter_context(Tpm(tcti))
        parent = stack.enter_context(tpm.primary(blobs.primary_template(pin.key, pin.hash)))
        session = stack.enter_context(tpm.session(salt=parent, encrypt="answers"))
        try:
            sealed = stack.enter_context(tpm.loaded(parent, pin.public, pin.private, session=session))
        except TpmRefusedError as error:
            raise DamagedFileError(
                f"this machine's TPM does not know the sealed key ({error})",
                hint="another TPM sealed it, this one was cleared since, or the file was altered",
            ) from error
        jwk = _unseal(tpm, sealed, pin, salt=parent, session=session, signed=signed)
    key = content_key_from_jwk(jwk)
    jwe_verify(compact, key)
    return key


def _unseal(
    tpm: Tpm, sealed: Handle, pin: Tpm2Pin, *, salt: Handle, session: Handle, signed: Sequence[SignedPcrs]
) -> Secret:
    if pin.authority is None and not pin.pcrs:
        try:
            return tpm.unseal(sealed, session=session)
        except TpmRefusedError as error:
            raise DamagedFileError(
                "the TPM wants a policy that the header does not name",
                hint="the header was altered after sealing",
            ) from error
    with tpm.session(salt=salt, encrypt="answers", policy_hash=pin.hash) as policy:
        try:
            if pin.authority is not None:
                tpm_policy.follow_signed(tpm, policy, pin.authority, pin.reference, signed)
            else:
                assert pin.bank is not None
                tpm.policy_pcr(policy, pin.bank, pin.pcrs)
            return tpm.unseal(sealed, session=policy)
        except TpmRefusedError as error:
            raise PolicyRefusedError(
                f"the TPM does not open: it wants that {pin.needs}", hint=CHANGED
            ) from error


def wrap(key: Secret, rule: Tpm2Rule, *, tcti: str | None = None) -> Mapping[str, object]:
    """Seal a content key by this machine's TPM.

    Returns:
        The header's `clevis` object.

    Raises:
        PolicyError: the TPM has no such PCR, or a digest of another length was given.
        UnlatchError: as `recover`.
    """
    with ONE_AT_A_TIME, ExitStack() as stack:
        tpm = stack.enter_context(Tpm(tcti))
        bank = rule.bank or (_bank(tpm, rule.pcrs) if rule.pcrs else None)
        policy = _policy(tpm, rule, bank)
        parent = stack.enter_context(tpm.primary(blobs.primary_template(rule.key, rule.hash)))
        session = stack.enter_context(tpm.session(salt=parent, encrypt="commands"))
        template = blobs.sealed_template(rule.hash, policy)
        public, private = tpm.create_sealed(parent, template, content_key_to_jwk(key), session=session)
    members: dict[str, object] = {
        "hash": rule.hash,
        "jwk_priv": jose.encode(private),
        "jwk_pub": jose.encode(public),
        "key": rule.key,
    }
    if rule.authority is not None:
        members |= {"authority": jose.encode(rule.authority), "reference": rule.reference}
        return {"pin": SIGNED_PIN, SIGNED_PIN: members}
    if rule.pcrs:
        members |= {"pcr_bank": bank, "pcr_ids": ",".join(map(str, rule.pcrs))}
    return {"pin": "tpm2", "tpm2": members}


def _bank(tpm: Tpm, pcrs: Sequence[int]) -> str:
    """SHA-256 where it is active (clevis 19 would take SHA-1), else the first bank that has every PCR."""
    fitting = [name for name, indices in tpm.banks().items() if indices.issuperset(pcrs)]
    if not fitting:
        raise ConfigError(f"no bank of the TPM has PCRs {','.join(map(str, pcrs))}")
    return PREFERRED_BANK if PREFERRED_BANK in fitting else fitting[0]


def _policy(tpm: Tpm, rule: Tpm2Rule, bank: str | None) -> bytes:
    if rule.authority is not None:
        name = tpm_policy.authority_name(rule.authority)
        return blobs.authorized(rule.hash, name, tpm_policy.reference_digest(rule.reference))
    if bank is None:
        return b""
    values = rule.pcr_values
    if values is None:
        values = b"".join(tpm.pcr_values(bank, rule.pcrs))
    expected = len(set(rule.pcrs)) * blobs.digest_size(bank)
    if len(values) != expected:
        raise PolicyError(
            f"pcr_digest has {len(values)} bytes, expected {expected}",
            hint="it is the raw PCR values one after the other in ascending order, in base64url",
        )
    return blobs.after_pcrs(blobs.empty_policy(rule.hash), rule.hash, bank, rule.pcrs, values)
