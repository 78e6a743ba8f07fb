"""Keys wrapped by a TPM, behind a custodian's service.

A TPM does one thing at a time, so there is one worker. Behind the kernel's resource manager keys stay loaded; a TPM
without one has room for three objects, which any program may flush, so there they are let go of when idle.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from unlatch.errors import BusyError, ConfigError
from unlatch.memguard.custodian import tpm_blobs as blobs
from unlatch.memguard.custodian.backend import Key, Missing
from unlatch.memguard.custodian.handshake import Method, method, schemes_of
from unlatch.memguard.custodian.keyfile import TpmKey
from unlatch.memguard.custodian.page import LockedPage
from unlatch.memguard.custodian.signatures import PublicKey, WrongSignatureError, algorithm_of, verify
from unlatch.memguard.custodian.tpm_public import public_key_of
from unlatch.memguard.custodian.tss import OWNER, PERSISTENT, Handle, Tpm, TpmRefusedError, device

PROBE = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)
"""What a key signs when it is found: a server's handshake message with a transcript hash that nobody has."""
MAX_LOADED = 2
"""Beside their parent: raw TPMs hold three objects."""
TRANSIENT = 0x80000000
"""The first handle of loaded objects."""


def is_raw(tcti: str) -> bool:
    """Whether nobody but us manages what is loaded: one program at a time is connected then."""
    return not tcti.startswith(("device:/dev/tpmrm", "tabrmd"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key as the configuration names it."""

    id: int
    name: str
    key: TpmKey


class Connection:
    """A TPM with a parent and some keys loaded; everything is flushed by `close`."""

    def __init__(self, tcti: str | None) -> None:
        self._stack = ExitStack()
        self._tpm = self._stack.enter_context(Tpm(tcti))
        self._parents: dict[int, tuple[ExitStack, Handle]] = {}
        self._loaded: dict[bytes, tuple[ExitStack, Handle]] = {}

    def sign(self, key: TpmKey, how: Method, message: bytes) -> bytes:
        """Sign, loading the key first where it is not, and again where somebody flushed it."""
        digest = how.digest(message)
        try:
            return self._tpm.sign(self._handle(key), how, digest)
        except TpmRefusedError as error:
            if error.fault != "missing":
                raise
        self._forget()
        return self._tpm.sign(self._handle(key), how, digest)

    def close(self) -> None:
        """Flush everything and hang up."""
        self._forget()
        self._stack.close()

    def _handle(self, key: TpmKey) -> Handle:
        found = self._loaded.get(key.private)
        if found is not None:
            return found[1]
        while len(self._loaded) >= MAX_LOADED:
            stack, _ = self._loaded.pop(next(iter(self._loaded)))
            stack.close()
        try:
            return self._load(key)
        except BusyError:
            # Somebody else's objects take the room that ours had: ours go first, and those of one of us who was killed.
            self._forget()
            self._flush_left(key)
            return self._load(key)

    def _load(self, key: TpmKey) -> Handle:
        parent = self._parent(key)
        with ExitStack() as session:
            authority = session.enter_context(self._tpm.session(salt=parent, encrypt="answers"))
            stack = ExitStack()
            handle = stack.enter_context(self._tpm.loaded(parent, key.public, key.private, session=authority))
        self._loaded[key.private] = (stack, handle)
        return handle

    def _flush_left(self, key: TpmKey) -> None:
        """Flush objects that are this key or its kind of parent: nobody holds them, for nobody else is connected."""
        if not is_raw(self._tpm.tcti):
            return
        parent = blobs.primary_template("ecc", "sha256", no_da=True)
        for number in self._tpm.handles(TRANSIENT):
            with suppress(TpmRefusedError), self._tpm.persistent(number) as found:
                with self._tpm.told():
                    public, *_ = self._tpm.esys.read_public(found)
                area = bytes(public.marshal())
                # Of a template all counts but its size in front and the empty point at its end.
                if area == key.public or area[2:].startswith(parent[2:-4]):
                    with self._tpm.flushed(found):
                        pass

    def _parent(self, key: TpmKey) -> Handle:
        found = self._parents.get(key.parent)
        if found is not None:
            return found[1]
        stack = ExitStack()
        if key.parent == OWNER:
            handle = stack.enter_context(
                self._tpm.primary(blobs.primary_template("ecc", "sha256", no_da=True))
            )
        elif key.parent in PERSISTENT:
            handle = stack.enter_context(self._tpm.persistent(key.parent))
        else:
            raise ConfigError(
                f"TPM key has parent {key.parent:#x}, which is neither the owner's nor persistent"
            )
        self._parents[key.parent] = (stack, handle)
        return handle

    def _forget(self) -> None:
        for held in (self._loaded, self._parents):
            while held:
                held.popitem()[1][0].close()


class Tpm2Backend:
    """One TPM."""

    def __init__(self, wanted: list[Wanted], *, tcti: str | None = None) -> None:
        self._wanted, self._tcti = wanted, tcti
        self._keys = {one.id: one.key for one in wanted}
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    @property
    def workers(self) -> int:
        """A TPM does one thing at a time."""
        return 1

    @property
    def needs_pin(self) -> bool:
        """Keys with passwords are refused, so there is nothing to ask for."""
        return False

    @property
    def gives_back(self) -> bool:
        """Whether nothing may stay loaded while idle."""
        return is_raw(device(self._tcti))

    def start(self) -> None:
        """Connect."""
        with self._lock:
            self._open()

    def login(self, pin: LockedPage, size: int) -> None:
        """Refuse: no key here has a password."""
        raise ConfigError("a TPM takes no PIN here")

    def find_keys(self) -> list[Key | Missing]:
        """Load every key once and have it sign."""
        return [self._find(one) for one in self._wanted]

    def signer(self) -> Tpm2Backend:
        """The one worker uses the connection itself."""
        return self

    def sign(self, key: Key, how: Method, message: bytes) -> bytes:
        """Sign with a key of this TPM."""
        with self._lock:
            return self._open().sign(self._keys[key.id], how, message)

    def idle(self) -> None:
        """Give a raw TPM back to others."""
        with self._lock:
            if self.gives_back:
                self._hang_up()

    def probe(self) -> None:
        """A connection that is not held cannot be lost."""

    def close(self) -> None:
        """The connection outlives its worker; `stop` ends it."""

    def stop(self) -> None:
        """Hang up."""
        with self._lock:
            self._hang_up()

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self._tcti)
        return self._connection

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _find(self, wanted: Wanted) -> Key | Missing:
        try:
            if wanted.key.needs_password:
                raise ConfigError("the TPM key has a password, which nobody could give: make it without")
            public = public_key_of(wanted.key.public)
            algorithm = algorithm_of(public)
            with self._lock:
                able = tuple(
                    scheme for scheme in schemes_of(algorithm) if self._can(wanted.key, public, scheme)
                )
            if not able:
                raise ConfigError("the TPM cannot sign with this key: is it of this TPM?")
            return Key(wanted.id, wanted.name, algorithm, public, able)
        except ValueError as error:
            return Missing(wanted.id, wanted.name, str(error))
        except (ConfigError, TpmRefusedError) as error:
            return Missing(wanted.id, wanted.name, str(error))

    def _can(self, key: TpmKey, public: PublicKey, scheme: int) -> bool:
        """Try a scheme: TPMs differ in hashes, and in the length of PSS's salt."""
        how = method(algorithm_of(public), scheme, "tls12")
        try:
            signature = self._open().sign(key, how, PROBE)
            verify(public, how, PROBE, signature)
        except TpmRefusedError as error:
            if error.fault == "missing":
                raise
            return False
        except WrongSignatureError:
            return False
        return True
