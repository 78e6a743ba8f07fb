"""How TPM and tokens are reached, as configuration and command line say it.

The pins themselves, and the libraries that they need, are imported when one is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unlatch.bootstrap.pins.pkcs11_header import Pkcs11Pin
from unlatch.bootstrap.pins.tpm2_header import Tpm2Pin
from unlatch.bootstrap.policy import Pkcs11Rule, Tpm2Rule
from unlatch.errors import ConfigError
from unlatch.memguard._native import Secret
from unlatch.memguard.custodian.uri import TokenUri


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a header cannot know. Everything is optional."""

    tcti: str | None = None
    """How the TPM is reached; None: from the environment, else the kernel's device."""
    signed_pcrs: tuple[Path, ...] = ()
    """Files of signed PCR values."""
    module: str | None = None
    """PKCS#11 library; None: as the header's URI says."""
    may_prompt: bool = False
    """Whether a PIN may be asked for at the terminal."""

    def tpm2(self, compact: bytes, pin: Tpm2Pin) -> Secret:
        """Give the content key of a JWE sealed by the TPM; see `pins.tpm2.recover`."""
        from unlatch.bootstrap.pins import signed_pcrs, tpm2

        signed = [one for path in self.signed_pcrs for one in signed_pcrs.read(_bytes(path))]
        return tpm2.recover(compact, pin, tcti=self.tcti, signed=signed)

    def pkcs11(self, compact: bytes, pin: Pkcs11Pin) -> Secret:
        """Give the content key of a JWE sealed to a token; see `pins.pkcs11.recover`."""
        from unlatch.bootstrap.pins import pkcs11

        return pkcs11.recover(compact, pin, module=self.module, pin_source=self._pin)

    def wrap(self, key: Secret, rule: Tpm2Rule | Pkcs11Rule) -> Mapping[str, object]:
        """Seal a content key in hardware; gives the header's `clevis` object."""
        from unlatch.bootstrap.pins import pkcs11, tpm2

        if isinstance(rule, Pkcs11Rule):
            return pkcs11.wrap(key, rule, module=self.module, pin_source=self._pin)
        return tpm2.wrap(key, rule, tcti=self.tcti)

    def _pin(self, uri: TokenUri) -> Secret:
        from unlatch.bootstrap.pins import pin_sources

        return pin_sources.interactive(uri) if self.may_prompt else pin_sources.unattended(uri)


NO_ADVICE = Hardware()


def beside(sealed: Path, *, may_prompt: bool = False) -> Hardware:
    """Look beside a sealed file for what its header cannot know: signed PCR values in FILE.pcrs."""
    values = sealed.with_name(f"{sealed.name}.pcrs")
    return Hardware(signed_pcrs=(values,) if values.exists() else (), may_prompt=may_prompt)


def _bytes(path: Path) -> bytes:
    from unlatch.bootstrap.pins.signed_pcrs import MAX_FILE_BYTES

    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the signed PCR values: {error.strerror}, {path}") from error
