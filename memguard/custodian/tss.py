"""A TPM over its enhanced system API: salted sessions, encrypted parameters, and nothing left behind.

Rule 1: every handle is a context manager: it is flushed when its block ends, whatever happened inside.
Rule 2: what is unsealed goes from the library's buffer straight into locked memory; that buffer is wiped.
Rule 3: a session that carries a secret is salted with the storage primary and encrypts the parameter, so that who
listens on the bus to the TPM learns nothing. Who answers in the TPM's place is not found out: its key is not pinned.

A `Tpm` is used by one thread at a time. tpm2-pytss is an extra (`unlatch[tpm]`) and imported here only.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NewType, Self, TypeAlias

from unlatch.errors import BusyError, ConfigError, RefusedError, UnavailableError, UnlatchError
from unlatch.memguard._native import Secret
from unlatch.memguard.custodian import tpm_blobs as blobs
from unlatch.memguard.custodian.handshake import Method
from unlatch.memguard.custodian.tpm_public import signature_of

Handle = NewType("Handle", int)
"""An object or session inside this connection."""

Direction: TypeAlias = Literal["commands", "answers"]
"""Which parameters a session encrypts: those that go in, or those that come out."""

RESOURCE_MANAGER = Path("/dev/tpmrm0")
RAW_DEVICE = Path("/dev/tpm0")
OWNER = 0x40000001
"""TPM_RH_OWNER: the hierarchy of the storage primary."""
PERSISTENT = range(0x81000000, 0x82000000)
IN_USE = "is it in use by another program, or gone? /dev/tpmrm0 may be shared, /dev/tpm0 not"

_FULL = {0x902: "objects", 0x903: "sessions", 0x904: "memory", 0x905: "sessions", 0x906: "objects"}
_LOCKOUT = 0x921
_PROPERTIES = {"manufacturer": 0x105, "firmware": 0x10B, "lockout_counter": 0x20E, "max_auth_fail": 0x20F}
"""TPM_PT by name."""
_SCHEMES: dict[tuple[str, str | None], int] = {
    ("rsa", "pkcs1"): 0x0014,
    ("rsa", "pss"): 0x0016,
    ("ecdsa-p256", None): 0x0018,
    ("ecdsa-p384", None): 0x0018,
    ("ecdsa-p521", None): 0x0018,
}
"""TPM_ALG_ID of signature schemes."""
_FAULTS = {
    "policy": (0x09D, 0x124, 0x126, 0x128, 0x12F),
    "password": (0x08E, 0x0A2),
    "missing": (0x08B, 0x910, 0x911, 0x918, 0x919),
    "defined": (0x14C,),
}
"""TPM_RC by what a caller may do about it; NV comparisons fail with TPM_RC_POLICY, PCRs that move with PCR_CHANGED."""
_GONE = (0x0005, 0x0008, 0x000A, 0x0011, 0x0013)
"""TSS2_BASE_RC of the transport: bad reference, no connection, I/O error, malformed or short response."""
_LIBRARY_LAYERS = (0x7, 0x8, 0xA)


class TpmRefusedError(RefusedError):
    """The TPM said no. `fault` names why, where the TPM's code is one of those that callers act on."""

    exit_code = 13

    def __init__(self, message: str, *, fault: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.fault = fault


def device(tcti: str | None = None) -> str:
    """Say how the TPM is reached: the argument, UNLATCH_TCTI, TPM2TOOLS_TCTI, or the kernel's device.

    Raises:
        ConfigError: there is none.
    """
    named = tcti or os.environ.get("UNLATCH_TCTI") or os.environ.get("TPM2TOOLS_TCTI")
    if named:
        return named
    for path in (RESOURCE_MANAGER, RAW_DEVICE):
        if path.exists():
            if not os.access(path, os.R_OK | os.W_OK):
                raise ConfigError(
                    f"{path} may not be used by this user", hint="add the user to the group tss"
                )
            return f"device:{path}"
    raise ConfigError(
        "no TPM: neither /dev/tpmrm0 nor /dev/tpm0 exists",
        hint="switch the TPM on in the firmware, or name a software TPM: UNLATCH_TCTI=swtpm:host=127.0.0.1,port=2321",
    )


def is_present() -> bool:
    """Answer whether this machine seems to have a TPM, without asking it."""
    try:
        device()
    except ConfigError:
        return False
    return True


def _library() -> Any:
    """Import tpm2-pytss, quietly: its errors are told as ours."""
    os.environ.setdefault("TSS2_LOG", "all+none")
    try:
        import tpm2_pytss
    except ImportError as error:
        raise ConfigError(
            "TPM support is not installed",
            hint="apt-get install libtss2-dev pkg-config gcc python3-dev && pip install 'unlatch[tpm]'",
        ) from error
    return tpm2_pytss


class Tpm:
    """A connection to a TPM."""

    def __init__(self, tcti: str | None = None) -> None:
        """Connect.

        Raises:
            ConfigError: no TPM, or no library for it.
            UnavailableError: it does not answer.
        """
        self.tcti = device(tcti)
        self.lib = _library()
        try:
            self.esys = self.lib.ESAPI(self.tcti)
        except self.lib.TSS2_Exception as error:
            raise UnavailableError(f"the TPM does not answer ({self.tcti})", hint=IN_USE) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.esys.close()

    @contextmanager
    def primary(self, template: bytes, *, hierarchy: int = OWNER) -> Iterator[Handle]:
        """Make the storage primary of a template: the same one every time, until the TPM is cleared."""
        lib = self.lib
        with self.told():
            handle, *_ = self.esys.create_primary(
                in_sensitive=lib.TPM2B_SENSITIVE_CREATE(),
                in_public=self._public(template),
                primary_handle=lib.ESYS_TR.RH_OWNER if hierarchy == OWNER else lib.ESYS_TR(hierarchy),
                session1=lib.ESYS_TR.PASSWORD,
            )
        with self.flushed(handle):
            yield handle

    @contextmanager
    def persistent(self, handle: int) -> Iterator[Handle]:
        """Use an object that stays in the TPM."""
        with self.told():
            found = self.esys.tr_from_tpmpublic(handle)
        try:
            yield found
        finally:
            with suppress(self.lib.TSS2_Exception):
                self.esys.tr_close(found)

    @contextmanager
    def session(
        self, *, salt: Handle, encrypt: Direction, policy_hash: str | None = None
    ) -> Iterator[Handle]:
        """Start a salted session: for an empty password, or a policy session with the hash given."""
        lib = self.lib
        with self.told():
            session = self.esys.start_auth_session(
                tpm_key=salt,
                bind=lib.ESYS_TR.NONE,
                session_type=lib.TPM2_SE.HMAC if policy_hash is None else lib.TPM2_SE.POLICY,
                symmetric=lib.TPMT_SYM_DEF(
                    algorithm=lib.TPM2_ALG.AES,
                    keyBits=lib.TPMU_SYM_KEY_BITS(aes=128),
                    mode=lib.TPMU_SYM_MODE(aes=lib.TPM2_ALG.CFB),
                ),
                auth_hash=lib.TPM2_ALG(blobs.HASHES[policy_hash or "sha256"]),
            )
        with self.flushed(session):
            with self.told():
                flags = lib.TPMA_SESSION
                hidden = flags.ENCRYPT if encrypt == "answers" else flags.DECRYPT
                self.esys.trsess_set_attributes(session, flags.CONTINUESESSION | hidden, 0xFF)
            yield session

    @contextmanager
    def loaded(self, parent: Handle, public: bytes, private: bytes, *, session: Handle) -> Iterator[Handle]:
        """Load an object under its parent.

        Args:
            parent: the storage key.
            public: TPM2B_PUBLIC.
            private: TPM2B_PRIVATE.
            session: authorizes the parent.

        Raises:
            TpmRefusedError: the blobs are altered, or of another TPM.
        """
        with self.told():
            handle = self.esys.load(parent, self._private(private), self._public(public), session1=session)
        with self.flushed(handle):
            yield handle

    def policy_pcr(self, session: Handle, bank: str, indices: Sequence[int]) -> None:
        """Bind a policy session to the present values of PCRs."""
        selection, _ = self.lib.TPML_PCR_SELECTION.unmarshal(blobs.pcr_selection(bank, indices))
        with self.told():
            self.esys.policy_pcr(session, b"", selection)

    def unseal(self, handle: Handle, *, session: Handle) -> Secret:
        """Give what a sealed object holds.

        Raises:
            TpmRefusedError: with fault "policy" when the policy is not met.
        """
        with self.told():
            data = self.esys.unseal(handle, session1=session)
        buffer = data._cdata  # noqa: SLF001 # the only way to its memory
        view = self._memory(buffer.buffer, buffer.size)
        try:
            return Secret.copy_from(view)
        finally:
            view[:] = bytes(len(view))

    def create_sealed(
        self, parent: Handle, template: bytes, secret: Secret, *, session: Handle
    ) -> tuple[bytes, bytes]:
        """Seal a secret of at most 128 bytes; gives TPM2B_PUBLIC and TPM2B_PRIVATE."""
        sensitive = self.lib.TPM2B_SENSITIVE_CREATE()
        target = sensitive._cdata.sensitive.data  # noqa: SLF001 # the only way to its memory
        target.size = len(secret)
        view = self._memory(target.buffer, len(secret))
        try:
            with secret.expose() as source:
                view[:] = source
            return self._create(parent, template, sensitive, session)
        finally:
            view[:] = bytes(len(view))

    def create_key(self, parent: Handle, template: bytes, *, session: Handle) -> tuple[bytes, bytes]:
        """Make a key; gives TPM2B_PUBLIC and TPM2B_PRIVATE."""
        return self._create(parent, template, self.lib.TPM2B_SENSITIVE_CREATE(), session)

    def sign(self, key: Handle, method: Method, digest: bytes) -> bytes:
        """Sign a digest with a loaded key; gives TLS's form.

        Raises:
            TpmRefusedError: the key or the TPM cannot.
        """
        lib, scheme = (
            self.lib,
            struct.pack(">HH", _SCHEMES[method.algorithm, method.padding], blobs.HASHES[str(method.hash)]),
        )
        ticket = struct.pack(
            ">HIH", 0x8024, 0x40000007, 0
        )  # TPM_ST_HASHCHECK, TPM_RH_NULL: a digest made outside
        with self.told():
            signed = self.esys.sign(
                key,
                digest,
                lib.TPMT_SIG_SCHEME.unmarshal(scheme)[0],
                lib.TPMT_TK_HASHCHECK.unmarshal(ticket)[0],
            )
            raw = bytes(signed.marshal())[4:]
        return signature_of(raw, is_rsa=method.algorithm == "rsa")

    def pcr_values(self, bank: str, indices: Sequence[int]) -> list[bytes]:
        """Read PCRs, in ascending order, each once.

        Raises:
            ConfigError: the bank is not active for one of them.
        """
        values: dict[int, bytes] = {}
        wanted = sorted(set(indices))
        while missing := [index for index in wanted if index not in values]:
            # A TPM answers at most eight values at once.
            selection, _ = self.lib.TPML_PCR_SELECTION.unmarshal(blobs.pcr_selection(bank, missing[:8]))
            with self.told():
                _, _, digests = self.esys.pcr_read(selection)
            if len(digests) == 0:
                raise ConfigError(
                    f"the TPM's {bank} bank has no PCR {missing[0]}",
                    hint=f"active banks: {', '.join(self.banks()) or 'none'}; name one with pcr_bank",
                )
            for index, digest in zip(missing[:8], digests, strict=False):
                values[index] = bytes(digest)
        return [values[index] for index in wanted]

    def banks(self) -> dict[str, frozenset[int]]:
        """Active PCR banks, and which PCRs each has."""
        lib = self.lib
        with self.told():
            _, data = self.esys.get_capability(lib.TPM2_CAP.PCRS, 0, 16)
        names = {number: name for name, number in blobs.HASHES.items()}
        found: dict[str, frozenset[int]] = {}
        for selection in data.data.assignedPCR:
            bank, _, *select = bytes(selection.marshal())[1:]
            bits = int.from_bytes(bytes(select), "little")
            indices = frozenset(index for index in range(blobs.PCR_COUNT) if bits >> index & 1)
            if indices and bank in names:
                found[names[bank]] = indices
        return found

    def properties(self) -> dict[str, int]:
        """Facts about the TPM: who made it, its room for objects, wrong passwords."""
        lib, found = self.lib, {}
        with self.told():
            for name, number in _PROPERTIES.items():
                _, data = self.esys.get_capability(lib.TPM2_CAP.TPM_PROPERTIES, number, 1)
                for one in data.data.tpmProperties:
                    found.update({name: int(one.value)} if int(one.property) == number else {})
        return found

    def handles(self, first: int) -> list[int]:
        """Handles of a range: 0x80000000 loaded objects, 0x81000000 persistent ones, 0x02000000 sessions."""
        with self.told():
            _, data = self.esys.get_capability(self.lib.TPM2_CAP.HANDLES, first, 64)
        return [int(handle) for handle in data.data.handles]

    def _create(
        self, parent: Handle, template: bytes, sensitive: Any, session: Handle
    ) -> tuple[bytes, bytes]:
        with self.told():
            private, public, *_ = self.esys.create(
                parent, sensitive, in_public=self._public(template), session1=session
            )
        return bytes(public.marshal()), bytes(private.marshal())

    def _public(self, data: bytes) -> Any:
        with self.told():
            public, used = self.lib.TPM2B_PUBLIC.unmarshal(data)
        if used != len(data):
            raise TpmRefusedError("TPM public area has bytes after its end", fault="other")
        return public

    def _private(self, data: bytes) -> Any:
        with self.told():
            private, used = self.lib.TPM2B_PRIVATE.unmarshal(data)
        if used != len(data):
            raise TpmRefusedError("TPM private area has bytes after its end", fault="other")
        return private

    def _memory(self, pointer: Any, size: int) -> memoryview:
        from tpm2_pytss._libtpm2_pytss import ffi

        return memoryview(ffi.buffer(pointer, size))

    @contextmanager
    def flushed(self, handle: Any) -> Iterator[None]:
        """Flush an object or session when the block ends."""
        try:
            yield
        finally:
            # A TPM that went away has nothing left to flush; the block's own error is the one to tell.
            with suppress(self.lib.TSS2_Exception):
                self.esys.flush_context(handle)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell the library's errors as ours."""
        try:
            yield
        except self.lib.TSS2_Exception as error:
            raise _translated(error, self.tcti) from error


def _translated(error: Any, tcti: str) -> UnlatchError:
    code = int(error.rc)
    number = code & 0xFFFF
    if code >> 16 in _LIBRARY_LAYERS and number in _GONE:
        return UnavailableError(f"the TPM does not answer ({tcti})", hint=IN_USE)
    if number in _FULL:
        return BusyError(
            f"the TPM has no room for more {_FULL[number]}",
            hint="another program left its objects behind: use /dev/tpmrm0, or tpm2_flushcontext -t -l -s",
        )
    if number == _LOCKOUT:
        return BusyError(
            "the TPM is in lockout after wrong passwords",
            hint="tpm2_getcap properties-variable says how long",
        )
    plain = int(error.error) & 0xFFFF
    fault = next((name for name, numbers in _FAULTS.items() if plain in numbers), "other")
    return TpmRefusedError(f"the TPM refused: {error}", fault=fault)
