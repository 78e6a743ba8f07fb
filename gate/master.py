"""The master key, which wraps every key of a gate, and what protects it.

`master.key` holds one of three things: the 32 bytes themselves (0600, `file`); a sealed file, whose pin is this machine's
TPM or a token, alone or beside an offline recovery key; or a line that says that the service manager hands the key over.

Rule 1: in clear it stands in the first kind of file only, and in locked memory.
Rule 2: nothing but hardware and the offline key opens it: no other pin is followed, no network is asked.
Rule 3: whoever changes `master.key` locks the gate and opens nothing: every key of the gate is authenticated under it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unlatch.bootstrap import files
from unlatch.bootstrap.jose import Jwk
from unlatch.bootstrap.open import recover_content_key
from unlatch.bootstrap.pins import tree
from unlatch.bootstrap.pins.hardware import Hardware, beside
from unlatch.bootstrap.pins.pkcs11_header import Pkcs11Pin
from unlatch.bootstrap.pins.tpm2_header import Tpm2Pin
from unlatch.bootstrap.pins.tree import RecoveryPin
from unlatch.bootstrap.policy import Pkcs11Rule, Tpm2Rule
from unlatch.bootstrap.seal import Target, encrypt, with_recovery
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import ConfigError, DamagedFileError, RefusedError
from unlatch.gate import durable
from unlatch.memguard._native import Secret, jwe_open, jwe_seal, jwe_verify

FILE = "master.key"
CREDENTIAL_FILE = "master.cred"
CREDENTIAL = "unlatch-gate-master"
MASTER_BYTES = 32
MARKER = b"unlatch-gate-master: systemd-credential\n"
MAX_BYTES = 48 * 1024
OPEN_SECONDS = 20.0

Kind = Literal["file", "tpm2", "pkcs11", "systemd-credential"]


@dataclass(frozen=True, slots=True)
class Protector:
    """How a master key shall be protected. `recovery` is the public half of an offline key that opens it too."""

    kind: Kind = "file"
    rule: Tpm2Rule | Pkcs11Rule | None = None
    recovery: Jwk | None = None

    def __post_init__(self) -> None:
        if (self.rule is not None) != (self.kind in ("tpm2", "pkcs11")):
            raise ConfigError(f"protector {self.kind} without its rule, or with one")
        if self.recovery is not None and self.rule is None:
            raise ConfigError(
                "a recovery key goes with a TPM or token only",
                hint="a master key in a file or credential is copied and kept apart instead",
            )


@dataclass(frozen=True, slots=True)
class Protected:
    """A protected master key, not yet on disk: the content of `master.key`, and of `master.cred` where there is one."""

    content: bytes | Secret
    credential: bytes | None = None

    def write(self, folder: Path) -> None:
        """Put it on disk. Replacing `master.key` comes last: that is the moment from which it counts."""
        if self.credential is not None:
            durable.replace(folder / CREDENTIAL_FILE, self.credential)
        if isinstance(self.content, Secret):
            durable.replace_secret(folder / FILE, self.content)
        else:
            durable.replace(folder / FILE, self.content)
        if self.credential is None:
            (folder / CREDENTIAL_FILE).unlink(missing_ok=True)


def protect(master: Secret, protector: Protector, *, hardware: Hardware) -> Protected:
    """Protect a master key, and see that it comes back.

    Raises:
        ConfigError: no TPM, token, PIN or `systemd-creds`.
        UnlatchError: as the hardware says.
    """
    if protector.kind == "file":
        return Protected(master)
    if protector.kind == "systemd-credential":
        made = Protected(MARKER, _encrypt_credential(master))
    else:
        assert protector.rule is not None
        target: Target = protector.rule
        if protector.recovery is not None:
            target = with_recovery(target, protector.recovery)
        extra = {"unlatch": {"purpose": CREDENTIAL}}
        made = Protected(encrypt(master, target, extra=extra, hardware=hardware))
    probe = jwe_seal(b"{}", Secret.random(MASTER_BYTES), master)
    try:
        jwe_verify(probe, _open_protected(made, hardware=hardware))
    except DamagedFileError as error:
        raise ConfigError(f"the protector does not give back what it was given: {error}") from error
    return made


def needs_child(folder: Path) -> bool:
    """Whether opening means loading foreign code, which a process of its own should do (`unwrap`)."""
    content = _content(folder / FILE)
    return content not in (None, MARKER)


def open_master(
    folder: Path, *, may_prompt: bool = False, recovery_key: Secret | None = None, is_service: bool = True
) -> Secret:
    """Open a gate's master key.

    Args:
        folder: DIR/keyholder.
        may_prompt: whether a PIN may be asked for at the terminal.
        recovery_key: the private half of the offline key.
        is_service: started by the service manager, which hands credentials over; else a person who may decrypt them.

    Raises:
        ConfigError: the file is no master key, or others may read it; no TPM, token or credential.
        UnlatchError: as the hardware says.
    """
    path = folder / FILE
    content = _content(path)
    if content is None:
        return _checked(_read_raw(path), path)
    if content == MARKER:
        opened = _credential() if is_service else _decrypt_credential(folder / CREDENTIAL_FILE)
        return _checked(opened, path)
    hardware = beside(path, may_prompt=may_prompt)
    return _checked(_open_sealed(content, hardware=hardware, recovery_key=recovery_key), path)


def describe(folder: Path) -> str:
    """What protects a gate's master key, in words.

    Raises:
        ConfigError: the file is no master key.
    """
    content = _content(folder / FILE)
    if content is None:
        return "file: whoever copies the folder has the gate's keys"
    if content == MARKER:
        return f"systemd-credential: LoadCredentialEncrypted={CREDENTIAL}:{folder / CREDENTIAL_FILE}"
    words = [_in_words(pin) for pin in tree.leaves(SealedFile.parse(content).pin)]
    return ", or ".join(words)


def _open_protected(protected: Protected, *, hardware: Hardware) -> Secret:
    if protected.credential is not None:
        return _creds("decrypt", f"--name={CREDENTIAL}", data=protected.credential)
    assert isinstance(protected.content, bytes)
    return _open_sealed(protected.content, hardware=hardware, recovery_key=None)


def _in_words(pin: object) -> str:
    match pin:
        case Tpm2Pin():
            return f"tpm2: this machine's TPM, {pin.needs}"
        case Pkcs11Pin():
            return f"pkcs11: {pin.uri.public_text}"
        case RecoveryPin():
            return f"the offline recovery key {pin.kid}"
        case _:
            return "something that this version does not open"


def _content(path: Path) -> bytes | None:
    """What `master.key` holds, but for a key in clear, which is not read: None."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == MASTER_BYTES:
                return None
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the master key {path}: {error.strerror}") from error
    if content != MARKER and (len(content) > MAX_BYTES or not content.startswith(b"eyJ")):
        raise ConfigError(
            f"the master key {path} is not {MASTER_BYTES} bytes long, and neither sealed nor a credential's line",
            hint="restore it from a copy",
        )
    return content


def _read_raw(path: Path) -> Secret:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_mode & 0o077:
            raise ConfigError(f"others may read the master key {path}", hint=f"chmod 600 {path}")
        return Secret.read_fd(descriptor, MASTER_BYTES)
    finally:
        os.close(descriptor)


def _open_sealed(content: bytes, *, hardware: Hardware, recovery_key: Secret | None) -> Secret:
    try:
        sealed = SealedFile.parse(content)
    except DamagedFileError as error:
        raise ConfigError(f"the master key is damaged: {error}", hint="restore it from a copy") from error
    for pin in tree.leaves(sealed.pin):
        if not isinstance(pin, Tpm2Pin | Pkcs11Pin | RecoveryPin):
            raise ConfigError(
                "the master key is sealed to something else than a TPM, a token or a recovery key",
                hint="restore it from a copy: somebody changed it",
            )
    key = recover_content_key(
        sealed,
        transport=_NoNetwork(),
        recovery_key=recovery_key,
        silent_timeout=OPEN_SECONDS,
        hardware=hardware,
    )
    return jwe_open(sealed.compact, key)


def _credential() -> Secret:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder) / CREDENTIAL if folder else None
    if path is None or not path.exists():
        raise ConfigError(
            "the service manager did not hand the gate's master key over",
            hint=f"in the unit: LoadCredentialEncrypted={CREDENTIAL}:DIR/keyholder/{CREDENTIAL_FILE}",
        )
    return files.read_secret(path, MASTER_BYTES)


def _encrypt_credential(master: Secret) -> bytes:
    sealed = _creds("encrypt", f"--name={CREDENTIAL}", data=master)
    with sealed.expose() as view:
        return bytes(view)  # encrypted: no secret


def _decrypt_credential(path: Path) -> Secret:
    try:
        data = path.read_bytes()[:MAX_BYTES]
    except OSError as error:
        raise ConfigError(f"cannot read the credential {path}: {error.strerror}") from error
    return _creds("decrypt", f"--name={CREDENTIAL}", data=data)


def _creds(*arguments: str, data: bytes | Secret) -> Secret:
    """Run systemd-creds over pipes: what it reads and writes never stands in a file or a Python object in clear."""
    program = shutil.which("systemd-creds")
    if program is None:
        raise ConfigError("systemd-creds is not installed", hint="it comes with systemd 250 and later")
    read, write = os.pipe()
    with os.fdopen(read, "rb") as given:
        with os.fdopen(write, "wb", buffering=0) as ours:
            # A pipe holds 64 KiB: all that goes in fits before anybody reads.
            data.write_fd(ours.fileno()) if isinstance(data, Secret) else ours.write(data)
        with subprocess.Popen(
            [program, *arguments, "-", "-"], stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            result = Secret.read_fd(process.stdout.fileno(), MAX_BYTES)
            told = process.stderr.read(4096).decode("utf-8", "replace").strip()
    if process.returncode != 0:
        last = told.splitlines()[-1] if told else "it said nothing"
        raise ConfigError(
            f"systemd-creds {arguments[0]} failed: {last}", hint="run as root, on the gate's machine"
        )
    return result


def _checked(master: Secret, path: Path) -> Secret:
    if len(master) != MASTER_BYTES:
        raise ConfigError(f"the master key {path} is not {MASTER_BYTES} bytes long")
    return master


@dataclass(frozen=True, slots=True)
class _NoNetwork:
    """Stands where a transport is wanted: a master key rings nobody."""

    def recover(
        self,
        *,
        url: str,
        kid: str,
        request: bytes,
        thumbprint: str,
        signing_keys: Sequence[Mapping[str, object]],
    ) -> bytes:
        """Refuse."""
        raise RefusedError("a master key is not opened over the network")
