"""The host's own key: made, found, and used to sign.

In the TPM where there is one: a `TSS2 PRIVATE KEY` file that only this TPM can use, exempt from its lockout (noDA). Else in a
file of its owner's: one line with the public half, then a private JWK, which goes into locked memory and becomes no
Python object.

The key is looked for, in this order: `$UNLATCH_HOST_KEY`, `$CREDENTIALS_DIRECTORY/host-key`, the user's own
`unlatch/host.key`, `/etc/unlatch/host.key`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unlatch.bootstrap import files, jose
from unlatch.bootstrap.identity.proof import HostKey, ProofError, Protection, PublicLine, lowered
from unlatch.errors import ConfigError, RefusedError
from unlatch.memguard._native import Secret, signing_key_generate, signing_key_sign
from unlatch.memguard.custodian.keyfile import TpmKey

VARIABLE = "UNLATCH_HOST_KEY"
CREDENTIAL = "host-key"
SYSTEM_FILE = Path("/etc/unlatch/host.key")
MAX_KEY_BYTES = 4096
_HEAD = b"unlatch-host-v1 file "
_HEAD_BYTES = len(_HEAD) + 87 + 1
_HINT = "unlatch host enroll makes one"


class HostSigner(Protocol):
    """A host's private key, wherever it lies."""

    @property
    def protection(self) -> Protection:
        """Where it lies."""
        ...

    @property
    def public(self) -> HostKey:
        """Its public half."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Give an ES256 signature with the lower s, checked.

        Raises:
            UnlatchError: the key cannot be used.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileSigner:
    """A key in a file that only its owner may read. Whoever copies the file has the key."""

    path: Path
    public: HostKey
    protection: Protection = "file"

    def sign(self, message: bytes) -> bytes:
        """See `HostSigner.sign`."""
        descriptor = _open(self.path)
        try:
            os.lseek(descriptor, _HEAD_BYTES, os.SEEK_SET)
            private = Secret.read_fd(descriptor, MAX_KEY_BYTES)
        finally:
            os.close(descriptor)
        try:
            return _checked(self.public, lowered(signing_key_sign(private, message)), message)
        finally:
            private.wipe()


@dataclass(frozen=True, slots=True)
class TpmSigner:
    """A key that only this machine's TPM can use."""

    key: TpmKey
    public: HostKey
    protection: Protection = "tpm"

    def sign(self, message: bytes) -> bytes:
        """See `HostSigner.sign`; a TPM takes 20 to 500 ms."""
        from contextlib import closing

        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        from unlatch.bootstrap.pins.tpm2 import ONE_AT_A_TIME
        from unlatch.memguard.custodian.handshake import Method
        from unlatch.memguard.custodian.tpm2 import Connection

        with ONE_AT_A_TIME, closing(Connection(None)) as connection:
            signature = connection.sign(self.key, Method("ecdsa-p256", "sha256"), message)
        r, s = decode_dss_signature(signature)
        return _checked(self.public, lowered(r.to_bytes(32, "big") + s.to_bytes(32, "big")), message)


def load(path: Path) -> HostSigner:
    """Read a host key's file; the private half of a file key is not read yet.

    Raises:
        ConfigError: it is none, cannot be read, or others may read it.
    """
    descriptor = _open(path)
    try:
        head = os.pread(descriptor, len(_HEAD), 0)
        if head == _HEAD:
            line = PublicLine.parse(os.pread(descriptor, _HEAD_BYTES, 0).decode("ascii"))
            return FileSigner(path, line.key)
        return _tpm_signer(os.pread(descriptor, MAX_KEY_BYTES, 0))
    except (ProofError, ValueError) as error:
        raise ConfigError(f"{path} is no host key: {error}", hint=_HINT) from error
    finally:
        os.close(descriptor)


def find(environ: Mapping[str, str] | None = None) -> Path | None:
    """Say where this host's key lies for this user; None where there is none.

    A file that this user may not read counts only where it was named.
    """
    environ = os.environ if environ is None else environ
    if named := environ.get(VARIABLE):
        return Path(named)
    places = [user_file(environ), SYSTEM_FILE]
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        places.insert(0, Path(folder) / CREDENTIAL)
    return next((path for path in places if os.access(path, os.R_OK)), None)


def usable(tell: Callable[[str], None], environ: Mapping[str, str] | None = None) -> HostSigner | None:
    """This host's key, where it has one that can be read; a key that is there and is none is said, and left alone."""
    path = find(environ)
    if path is None:
        return None
    try:
        return load(path)
    except ConfigError as error:
        tell(f"asking without the host key: {error}")
        return None


def user_file(environ: Mapping[str, str] | None = None) -> Path:
    """Where a user without a system-wide key keeps the host's."""
    environ = os.environ if environ is None else environ
    given = environ.get("XDG_CONFIG_HOME")
    folder = Path(given) if given else Path(environ.get("HOME", "~")).expanduser() / ".config"
    return folder / "unlatch" / "host.key"


def usual_file() -> Path:
    """Where a new key goes: for the whole machine when root makes it."""
    return SYSTEM_FILE if os.geteuid() == 0 else user_file()


def make_in_tpm(path: Path, *, force: bool = False) -> HostSigner:
    """Make a key in the TPM; the file at `path` is good for this TPM only.

    Raises:
        ConfigError: no TPM, or the file exists.
        UnlatchError: the TPM does not make it.
    """
    from unlatch.bootstrap.pins.tpm2 import ONE_AT_A_TIME
    from unlatch.memguard.custodian import keyfile
    from unlatch.memguard.custodian.tpm_keys import make_key

    _prepare(path, force=force)
    with ONE_AT_A_TIME:
        made = keyfile.write_tpm(make_key("ecc"))
    signer = _tpm_signer(made)
    signer.sign(b"unlatch-host-v1\0probe")
    files.write(path, made, force=force)
    return signer


def make_in_file(path: Path, *, force: bool = False) -> HostSigner:
    """Make a key in a file of mode 0600.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    _prepare(path, force=force)
    private, public = signing_key_generate("P-256")
    jwk = jose.read_json(public)
    assert isinstance(jwk, dict)
    key = HostKey.of_jwk(jwk)
    head = f"{PublicLine('file', key)}\n".encode()
    assert len(head) == _HEAD_BYTES

    def put(descriptor: int) -> None:
        os.write(descriptor, head)
        private.write_fd(descriptor)

    files.write_by(path, put, force=force)
    private.wipe()
    return load(path)


def _prepare(path: Path, *, force: bool) -> None:
    files.refuse_existing(path, force=force)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {path.parent}: {error.strerror}") from error


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot read the host key {path}: {error.strerror}", hint=_HINT) from error
    # The service manager gives a unit's user its credentials by an ACL, which shows as a right of the group.
    handed = os.environ.get("CREDENTIALS_DIRECTORY")
    is_credential = handed is not None and path == Path(handed) / CREDENTIAL
    if os.fstat(descriptor).st_mode & (0o007 if is_credential else 0o077):
        os.close(descriptor)
        raise ConfigError(f"others may read the host key {path}", hint=f"chmod 600 {path}")
    return descriptor


def _tpm_signer(data: bytes) -> TpmSigner:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from unlatch.memguard.custodian import keyfile
    from unlatch.memguard.custodian.tpm_public import public_key_of

    key = keyfile.find(data)
    if not isinstance(key, TpmKey):
        raise ProofError("neither a TPM's key nor a host key of ours")
    public = public_key_of(key.public)
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise ProofError("a host key is on P-256")
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return TpmSigner(key, HostKey(point))


def _checked(public: HostKey, signature: bytes, message: bytes) -> bytes:
    """A key file that was mixed up, or a TPM that signs wrongly, is noticed here and not by the gate."""
    try:
        public.verify(signature, message)
    except ProofError as error:
        raise RefusedError(
            "the host key signs for another key than its file says",
            hint="make a new one: unlatch host enroll --force",
        ) from error
    return signature
