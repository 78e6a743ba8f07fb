"""From a sealed file to its content key: walks the tree of pins, asks, and checks what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unlatch.bootstrap import jose
from unlatch.bootstrap.pins import sss, tang, tree
from unlatch.bootstrap.pins.hardware import NO_ADVICE, Hardware
from unlatch.bootstrap.pins.pkcs11_header import Pkcs11Pin
from unlatch.bootstrap.pins.race import within
from unlatch.bootstrap.pins.tang import Transport
from unlatch.bootstrap.pins.tpm2_header import Tpm2Pin
from unlatch.bootstrap.pins.tree import (
    BrokenPin,
    Child,
    NoRecoveryKeyError,
    NullPin,
    Pin,
    RecoveryPin,
    SssPin,
    TangPin,
    UnknownPin,
    UnknownPinError,
)
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import (
    BusyError,
    ConfigError,
    DamagedFileError,
    UndecidedError,
    UnlatchError,
    UnreachableError,
)
from unlatch.memguard._native import Secret, derive_content_key, jwe_verify

SILENT_TIMEOUT = 30.0
"""Seconds for a server that needs no person: curl's own connect and DNS retries fit into it."""


def recover_content_key(
    sealed: SealedFile,
    *,
    transport: Transport,
    recovery_key: Secret | None = None,
    silent_timeout: float | None = SILENT_TIMEOUT,
    asking_timeout: float | None = None,
    allow_null: bool = False,
    hardware: Hardware = NO_ADVICE,
) -> Secret:
    """Give the content key of a sealed file, checked against its tag.

    Args:
        sealed: the parsed file.
        transport: reaches Tang servers and gates.
        recovery_key: the offline key (private JWK); tried before any server.
        silent_timeout: seconds for each server that rings nobody; None waits for ever, as clevis does.
        asking_timeout: seconds for each gate that asks a person; None leaves the end to the transport.
        allow_null: open clevis's test pin, whose key lies in the header.
        hardware: how TPM and tokens are reached, and what they need.

    Raises:
        DamagedFileError: the file, or a share of it, is altered.
        UnlatchError: as the transport says.
    """
    walk = _Walk(transport, recovery_key, silent_timeout, asking_timeout, allow_null, hardware)
    return walk.content_key(sealed.compact, sealed.header_json, sealed.pin)


@dataclass(frozen=True, slots=True)
class _Walk:
    transport: Transport
    recovery_key: Secret | None
    silent_timeout: float | None
    asking_timeout: float | None
    allow_null: bool
    hardware: Hardware

    def content_key(self, compact: bytes, header: bytes, pin: Pin) -> Secret:
        match pin:
            case TangPin():
                return self._tang(compact, header, pin)
            case Tpm2Pin():
                return self._hardware("the TPM", lambda: self.hardware.tpm2(compact, pin))
            case Pkcs11Pin():
                return self._hardware("the token", lambda: self.hardware.pkcs11(compact, pin))
            case SssPin():
                return sss.recover(compact, pin, ask=self._child)
            case RecoveryPin():
                return self._recovery(compact, header, pin)
            case NullPin():
                return self._null(compact, pin)
            case BrokenPin():
                raise DamagedFileError(f"a share is no sealed file: {pin.reason}", hint=tree.ALTERED)
            case UnknownPin():
                raise UnknownPinError(
                    f"pin {pin.name!r} is not known to this version",
                    hint="this version opens tang, tpm2, pkcs11 and sss: try clevis decrypt where the pin's program is installed",
                )

    def _child(self, child: Child) -> Secret:
        return self.content_key(child.compact, child.header, child.pin)

    def _tang(self, compact: bytes, header: bytes, pin: TangPin) -> Secret:
        seconds = self.silent_timeout if tree.is_silent(pin) else self.asking_timeout
        try:
            return within(seconds, lambda: tang.recover(compact, header, pin, transport=self.transport))
        except TimeoutError as error:
            raise _too_late(pin, seconds) from error

    def _hardware(self, name: str, ask: Callable[[], Secret]) -> Secret:
        try:
            return within(self.silent_timeout, ask)
        except TimeoutError as error:
            raise BusyError(
                f"{name} did not answer within {self.silent_timeout:g} s", hint="is another program using it?"
            ) from error

    def _recovery(self, compact: bytes, header: bytes, pin: RecoveryPin) -> Secret:
        if self.recovery_key is None:
            raise NoRecoveryKeyError(
                "the offline recovery key was not given", hint="give it with --recovery-key FILE"
            )
        try:
            key = derive_content_key(header, self.recovery_key)
            jwe_verify(compact, key)
        except (ConfigError, DamagedFileError) as error:
            raise DamagedFileError(
                "this recovery key does not open the file",
                hint=f"the file was sealed to recovery key {pin.kid}",
            ) from error
        return key

    def _null(self, compact: bytes, pin: NullPin) -> Secret:
        if not self.allow_null:
            raise DamagedFileError(
                "the pin is clevis's null pin: the file holds its own key and protects nothing",
                hint="seal the secret again with a real pin; unlatch clevis decrypt opens it once more",
            )
        try:
            key = Secret.copy_from(jose.decode(pin.key or ""))
            jwe_verify(compact, key)
        except ValueError as error:
            raise DamagedFileError("null: k is not base64url", hint=tree.ALTERED) from error
        return key


def _too_late(pin: TangPin, seconds: float | None) -> UnlatchError:
    if pin.workload is None:
        return UnreachableError(
            f"{pin.url} did not answer within {seconds:g} s",
            hint="check the address and the network, then try again",
        )
    return UndecidedError(
        f"nobody decided about {pin.workload} within {seconds:g} s",
        hint="reach an operator, then ask again; or wait longer with --timeout",
    )
