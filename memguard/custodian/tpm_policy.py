"""Policies that an authority signs, and the epoch counter by which it takes them back.

The sealed key asks only for a signature of the policy key (TPM2_PolicyAuthorize); what it signed are PCR values and,
if it wants to be able to take them back, "the epoch counter is at most N". The counter is an NV index that only grows,
even when it is removed and made again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any, Protocol

from unlatch.errors import ConfigError
from unlatch.memguard.custodian import tpm_blobs as blobs
from unlatch.memguard.custodian.tss import Handle, Tpm, TpmRefusedError

COUNTER_INDEX = 0x0180A7C1
"""In the range that owners may use (TCG registry of reserved handles, 0x01800000 to 0x01BFFFFF)."""
_OWNER_WRITE, _COUNTER, _OWNER_READ, _AUTH_READ = 1 << 1, 1 << 4, 1 << 17, 1 << 18
_NO_DA, _WRITTEN = 1 << 25, 1 << 29
_ATTRIBUTES = _OWNER_WRITE | _COUNTER | _OWNER_READ | _AUTH_READ | _NO_DA
COUNTER_NAME = blobs.object_name(
    struct.pack(">IHIHH", COUNTER_INDEX, blobs.HASHES["sha256"], _ATTRIBUTES | _WRITTEN, 0, 8)
)
MAX_STEPS = 10_000
"""Each step writes to the TPM's flash: a typing error must not wear it out."""


class Signed(Protocol):
    """PCR values under a signature."""

    @property
    def bank(self) -> str: ...  # noqa: D102
    @property
    def pcrs(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def epoch(self) -> int | None: ...  # noqa: D102
    @property
    def reference(self) -> str: ...  # noqa: D102
    @property
    def policy(self) -> bytes: ...  # noqa: D102
    @property
    def signature(self) -> tuple[bytes, bytes]: ...  # noqa: D102


def authority_public(spki: bytes) -> bytes:
    """Give a policy key's TPMT_PUBLIC.

    Args:
        spki: its SubjectPublicKeyInfo in DER.

    Raises:
        ConfigError: it is no P-256 key.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(spki)
    except ValueError as error:
        raise ConfigError("the policy key is no public key") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ConfigError("the policy key is not on P-256", hint="unlatch tpm policy make-key --out FILE")
    numbers = key.public_numbers()
    return blobs.policy_key_public((numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")))


def authority_name(spki: bytes) -> bytes:
    """Give a policy key's name, as policies hold it."""
    return blobs.object_name(authority_public(spki))


def reference_digest(reference: str) -> bytes:
    """Give the policyRef of a reference: empty for none."""
    return hashlib.sha256(reference.encode()).digest() if reference else b""


def follow_signed(
    tpm: Tpm, session: Handle, authority: bytes, reference: str, signed: Sequence[Signed]
) -> None:
    """Bring a policy session to what the authority allows, with the first signed values that fit this machine.

    Raises:
        TpmRefusedError: none fits.
    """
    failures: list[TpmRefusedError] = []
    for one in signed:
        if one.reference != reference:
            continue
        try:
            with tpm.told():
                tpm.esys.policy_restart(session)
            if one.epoch is not None:
                _policy_counter(tpm, session, one.epoch)
            tpm.policy_pcr(session, one.bank, one.pcrs)
            _policy_authorize(tpm, session, authority, reference, one)
        except TpmRefusedError as error:
            failures.append(error)
        else:
            return
    told = f"none of {len(failures)} signed sets of PCR values fits"
    raise TpmRefusedError(told, fault="policy") from (failures[-1] if failures else None)


def counter(tpm: Tpm) -> int | None:
    """Read the epoch counter; None where there is none yet."""
    try:
        with tpm.told():
            index = tpm.esys.tr_from_tpmpublic(COUNTER_INDEX)
            data = tpm.esys.nv_read(index, 8, 0, auth_handle=index)
    except TpmRefusedError as error:
        if error.fault == "missing":
            return None
        raise
    with tpm.told():
        tpm.esys.tr_close(index)
    return int(struct.unpack(">Q", bytes(data))[0])


def advance(tpm: Tpm, epoch: int) -> int:
    """Raise the epoch counter to `epoch`, making it first where it is missing; gives the counter's value.

    Raises:
        ConfigError: it stands higher already, or too far below.
    """
    lib = tpm.lib
    now = counter(tpm)
    if now is None:
        _define(tpm)
        with tpm.told():
            index = tpm.esys.tr_from_tpmpublic(COUNTER_INDEX)
            # A new counter starts above every counter that this TPM ever had.
            tpm.esys.nv_increment(index, auth_handle=lib.ESYS_TR.RH_OWNER)
            tpm.esys.tr_close(index)
        now = counter(tpm) or 0
    if now > epoch:
        raise ConfigError(
            f"the epoch counter stands at {now}, above {epoch}",
            hint=f"it only grows: sign with --epoch {now} or higher",
        )
    if epoch - now > MAX_STEPS:
        raise ConfigError(f"{epoch} is more than {MAX_STEPS} above the epoch counter, {now}")
    with tpm.told():
        index = tpm.esys.tr_from_tpmpublic(COUNTER_INDEX)
        for _ in range(epoch - now):
            tpm.esys.nv_increment(index, auth_handle=lib.ESYS_TR.RH_OWNER)
        tpm.esys.tr_close(index)
    return epoch


def _define(tpm: Tpm) -> None:
    public = struct.pack(">IHIHH", COUNTER_INDEX, blobs.HASHES["sha256"], _ATTRIBUTES, 0, 8)
    with tpm.told():
        info, _ = tpm.lib.TPM2B_NV_PUBLIC.unmarshal(blobs.tpm2b(public))
        tpm.esys.nv_define_space(b"", info)


def _policy_counter(tpm: Tpm, session: Handle, epoch: int) -> None:
    lib = tpm.lib
    with tpm.told():
        index = tpm.esys.tr_from_tpmpublic(COUNTER_INDEX)
        tpm.esys.policy_nv(
            index,
            index,
            session,
            blobs.epoch_operand(epoch),
            lib.TPM2_EO.UNSIGNED_LE,
            session1=lib.ESYS_TR.PASSWORD,
        )
        tpm.esys.tr_close(index)


def _policy_authorize(tpm: Tpm, session: Handle, authority: bytes, reference: str, one: Signed) -> None:
    lib = tpm.lib
    name, qualifier = authority_name(authority), reference_digest(reference)
    approved = hashlib.sha256(one.policy + qualifier).digest()
    with tpm.told():
        public, _ = lib.TPM2B_PUBLIC.unmarshal(blobs.tpm2b(authority_public(authority)))
        key = tpm.esys.load_external(public, hierarchy=lib.ESYS_TR.RH_OWNER)
    with tpm.flushed(key), tpm.told():
        ticket = tpm.esys.verify_signature(key, approved, _signature(lib, one.signature))
        tpm.esys.policy_authorize(session, one.policy, name, ticket, policy_ref=qualifier)


def _signature(lib: Any, numbers: tuple[bytes, bytes]) -> Any:
    head = struct.pack(">HH", 0x0018, blobs.HASHES["sha256"])
    return lib.TPMT_SIGNATURE.unmarshal(head + blobs.tpm2b(numbers[0]) + blobs.tpm2b(numbers[1]))[0]
