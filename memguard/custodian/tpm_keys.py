"""Making keys that only one TPM can use."""

from __future__ import annotations

from unlatch.errors import ConfigError
from unlatch.memguard.custodian import tpm_blobs as blobs
from unlatch.memguard.custodian.keyfile import TpmKey
from unlatch.memguard.custodian.tss import OWNER, PERSISTENT, Tpm

KINDS = tuple(blobs.CURVES | blobs.MODULI)


def make_key(kind: str, *, tcti: str | None = None, parent: int = OWNER) -> TpmKey:
    """Make a signing key inside the TPM; what comes out is wrapped for it.

    Args:
        kind: one of KINDS.
        tcti: how the TPM is reached.
        parent: the owner's storage primary, as tpm2-openssl makes it, or a persistent handle.

    Raises:
        ConfigError: an unknown kind or parent.
        UnlatchError: as the TPM says.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind of TPM key is not one of {', '.join(KINDS)}")
    with Tpm(tcti) as tpm:
        if parent == OWNER:
            found = tpm.primary(blobs.primary_template("ecc", "sha256", no_da=True))
        elif parent in PERSISTENT:
            found = tpm.persistent(parent)
        else:
            raise ConfigError(f"{parent:#x} is no persistent handle", hint="0x81000000 to 0x81ffffff")
        with found as storage, tpm.session(salt=storage, encrypt="commands") as session:
            public, private = tpm.create_key(storage, blobs.signing_template(kind), session=session)
    return TpmKey(parent, public, private)
