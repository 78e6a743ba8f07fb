"""A PKCS#11 module, loaded by the process that uses it and by no other.

Rule 1: loaded after the last fork; a module's state does not survive one.
Rule 2: threads are announced (CKF_OS_LOCKING_OK): python-pkcs11 alone would promise the module a single thread.
Rule 3: a PIN goes from locked memory to C_Login and nowhere else; one that was wrong is not tried again, and none is
tried when it would be the last attempt.
Rule 4: what a token decrypts goes from our buffer into locked memory.

python-pkcs11 does everything that touches no secret. Source: PKCS#11 v2.40 and v3.0, OASIS.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

from unlatch.errors import ConfigError, RefusedError, UnavailableError
from unlatch.memguard._native import Secret
from unlatch.memguard.custodian.page import LockedPage, locked
from unlatch.memguard.custodian.uri import TokenUri

Fault = Literal["pin-wrong", "pin-blocked", "need-pin", "mechanism", "data", "other"]

MAX_PIN_BYTES = 255

_OK, _ALREADY_INITIALIZED, _CANT_LOCK, _ALREADY_LOGGED_IN = 0x000, 0x191, 0x00A, 0x100
_PIN_WRONG = (0x0A0, 0x0A1, 0x0A2)
_PIN_BLOCKED = (0x0A3, 0x0A4)
_GONE = (0x005, 0x006, 0x030, 0x031, 0x032, 0x0B0, 0x0B1, 0x0B3, 0x0E0, 0x0E1, 0x190)
_BAD_CIPHERTEXT = (0x040, 0x041, 0x020, 0x021)
_INITIALIZE, _FINALIZE, _LOGIN, _DECRYPT_INIT, _DECRYPT = 0, 1, 18, 33, 34
"""Places in CK_FUNCTION_LIST."""
_USER = 1
_OS_LOCKING_OK = 2
_COUNT_LOW, _FINAL_TRY, _LOCKED = 0x10000, 0x20000, 0x40000


class TokenRefusedError(RefusedError):
    """A token said no; `fault` names why."""

    exit_code = 13

    def __init__(self, message: str, *, fault: Fault, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.fault: Fault = fault


class TokenGoneError(UnavailableError):
    """The token, its reader or its daemon does not answer. It may come back."""


class _InitializeArguments(ctypes.Structure):
    _fields_ = (
        ("mutexes", ctypes.c_void_p * 4),
        ("flags", ctypes.c_ulong),
        ("parameters", ctypes.c_char_p),
    )


class _Mechanism(ctypes.Structure):
    _fields_ = (("mechanism", ctypes.c_ulong), ("parameter", ctypes.c_void_p), ("size", ctypes.c_ulong))


class _OaepParameters(ctypes.Structure):
    _fields_ = (
        ("hash", ctypes.c_ulong),
        ("mgf", ctypes.c_ulong),
        ("source", ctypes.c_ulong),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_ulong),
    )


RSA_PKCS, RSA_OAEP = 0x01, 0x09
_SHA1, _SHA256 = 0x220, 0x250
_MGF1_SHA1, _MGF1_SHA256 = 1, 2
_DATA_SPECIFIED = 1


class Module:
    """A loaded module. One per process and file; `close` before the process ends."""

    def __init__(self, path: str, *, parameters: str | None = None) -> None:
        """Load and initialise.

        Args:
            path: the library's file.
            parameters: NSS's `configdir='…'`, for modules that want such a string.

        Raises:
            ConfigError: it cannot be loaded, or python-pkcs11 is missing.
            TokenGoneError: it does not initialise.
        """
        self.path = path
        self._parameters = parameters.encode() if parameters else None
        self.library = _load(path)
        self._functions = _functions_of(self.library, path)
        self.has_threads = self._initialize()

    def close(self) -> None:
        """Finish with the module; every session and login ends."""
        self._call(_FINALIZE, ctypes.c_void_p(None))

    def restart(self) -> None:
        """Finish and start again, as modules want whose daemon went away.

        Raises:
            TokenGoneError: it does not initialise.
        """
        self.close()
        self.has_threads = self._initialize()

    def tokens(self, uri: TokenUri) -> list[Any]:
        """Give the present tokens that a URI fits."""
        with told():
            slots = self.library.get_slots(token_present=True)
            found = []
            for at, slot in enumerate(slots):
                token = slot.get_token()
                if _fits(uri, token, slot_id=slot.slot_id, at=at):
                    found.append(token)
        return found

    def token(self, uri: TokenUri) -> Any:
        """Give the one token that a URI fits.

        Raises:
            TokenGoneError: none is there.
            ConfigError: several are.
        """
        found = [token for token in self.tokens(uri) if token.label]
        if not found:
            raise TokenGoneError(
                f"no token fits {uri.public_text}",
                hint="is it plugged in and its daemon running? unlatch hsm list shows what is there",
            )
        if len(found) > 1:
            names = ", ".join(repr(str(token.label)) for token in found)
            raise ConfigError(f"{uri.public_text} fits several tokens: {names}", hint="add token= or serial=")
        return found[0]

    def login(self, session: Any, pin: LockedPage | None, size: int = 0) -> None:
        """Log in to the token of a session; every session of this process is logged in then.

        Args:
            session: an open session.
            pin: holds the PIN; None asks at the token's own keypad.
            size: the PIN's length in bytes.

        Raises:
            TokenRefusedError: "pin-wrong" or "pin-blocked". Do not try again.
            TokenGoneError: no answer.
        """
        flags = int(session.token.flags)
        if flags & _LOCKED:
            raise TokenRefusedError(
                f"token {session.token.label}: the PIN is locked", fault="pin-blocked", hint=UNBLOCK
            )
        if flags & _FINAL_TRY:
            raise TokenRefusedError(
                f"token {session.token.label}: one attempt is left, which is not risked here",
                fault="pin-blocked",
                hint=UNBLOCK,
            )
        address = None if pin is None else pin.address
        code = self._call(
            _LOGIN,
            ctypes.c_ulong(session.handle),
            ctypes.c_ulong(_USER),
            ctypes.c_void_p(address),
            ctypes.c_ulong(size),
        )
        if code in (_OK, _ALREADY_LOGGED_IN):
            return
        if code in _PIN_WRONG:
            raise TokenRefusedError(
                f"token {session.token.label}: the PIN is wrong",
                fault="pin-wrong",
                hint="it is not tried again: tokens lock themselves after a few attempts",
            )
        raise translated(code, f"token {session.token.label}: login")

    def decrypt(
        self, session: Any, key: Any, data: bytes, *, mechanism: Literal["oaep", "oaep-sha1", "pkcs1"]
    ) -> Secret:
        """Decrypt with an RSA key.

        Raises:
            TokenRefusedError: "mechanism" where the token cannot, "data" where the ciphertext is not for this key.
        """
        chosen = _mechanism(mechanism)
        handle = ctypes.c_ulong(session.handle)
        code = self._call(_DECRYPT_INIT, handle, ctypes.byref(chosen), ctypes.c_ulong(key.handle))
        if code != _OK:
            raise translated(code, f"token {session.token.label}: decrypting")
        with locked(max(len(data), 512)) as page:
            size = ctypes.c_ulong(page.size)
            source = ctypes.create_string_buffer(data, len(data))
            code = self._call(
                _DECRYPT,
                handle,
                source,
                ctypes.c_ulong(len(data)),
                ctypes.c_void_p(page.address),
                ctypes.byref(size),
            )
            if code != _OK:
                raise translated(code, f"token {session.token.label}: decrypting")
            return Secret.copy_from(page.view[: size.value])

    def _call(self, place: int, *arguments: Any) -> int:
        prototype = ctypes.CFUNCTYPE(ctypes.c_ulong, *(_plain(argument) for argument in arguments))
        return int(prototype(self._functions[place + 1])(*arguments))

    def _initialize(self) -> bool:
        """Answer whether threads may use the module."""
        for flags in (_OS_LOCKING_OK, 0):
            arguments = _InitializeArguments(flags=flags, parameters=self._parameters)
            code = self._call(_INITIALIZE, ctypes.byref(arguments))
            if code in (_OK, _ALREADY_INITIALIZED):
                return flags == _OS_LOCKING_OK
            if code != _CANT_LOCK:
                break
        raise TokenGoneError(
            f"PKCS#11 module {self.path} does not start (CKR {code:#x})",
            hint="its own configuration file or daemon may be missing",
        )


def _load(path: str) -> Any:
    """Give python-pkcs11's object for a module, loaded but not initialised."""
    try:
        from pkcs11._pkcs11 import lib
        from pkcs11.exceptions import PKCS11Error
    except ImportError as error:
        raise ConfigError("PKCS#11 support is not installed", hint="pip install python-pkcs11") from error
    make: Any = lib.__new__
    try:
        # Its constructor would initialise the module, and for a single thread.
        return make(lib, path)
    except (PKCS11Error, UnicodeDecodeError) as error:
        raise ConfigError(
            f"PKCS#11 module {path} cannot be loaded: {error}", hint="is it a module, built for this machine?"
        ) from error


def _functions_of(library: Any, path: str) -> Any:
    """Give the module's function list (CK_FUNCTION_LIST) as an array of pointers; the version takes one's place.

    It must be the very list that python-pkcs11 uses: p11-kit's client gives a new one, with a connection of its own, to
    everybody who asks. The object holds it as its first member; the range of python-pkcs11's versions is pinned.

    Raises:
        ConfigError: what lies there is no such list.
    """
    address = ctypes.c_void_p.from_address(id(library) + object.__basicsize__).value
    if not address:
        raise ConfigError(f"{path} gives no PKCS#11 functions")
    if ctypes.c_ubyte.from_address(address).value not in (2, 3):
        raise ConfigError(f"{path} speaks no PKCS#11 of version 2 or 3")
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_void_p))


UNBLOCK = "unblock it with the token's own tool and the security officer's PIN"


@contextmanager
def told() -> Iterator[None]:
    """Tell python-pkcs11's errors as ours."""
    from pkcs11 import exceptions

    gone = (
        exceptions.DeviceError,
        exceptions.DeviceMemory,
        exceptions.DeviceRemoved,
        exceptions.FunctionFailed,
        exceptions.GeneralError,
        exceptions.SessionClosed,
        exceptions.SessionHandleInvalid,
        exceptions.SlotIDInvalid,
        exceptions.TokenNotPresent,
        exceptions.TokenNotRecognised,
    )
    try:
        yield
    except gone as error:
        raise TokenGoneError(f"the token does not answer ({_name(error)})") from error
    except exceptions.UserNotLoggedIn as error:
        raise TokenRefusedError("the token wants its PIN", fault="need-pin") from error
    except (exceptions.MechanismInvalid, exceptions.MechanismParamInvalid) as error:
        raise TokenRefusedError(f"the token cannot do this ({_name(error)})", fault="mechanism") from error
    except exceptions.PKCS11Error as error:
        raise TokenRefusedError(f"the token refused ({_name(error)})", fault="other") from error


def hang_up(session: Any) -> None:
    """Close a session, also one whose token went away."""
    from pkcs11.exceptions import PKCS11Error

    with suppress(PKCS11Error):
        session.close()


def translated(code: int, what: str) -> TokenGoneError | TokenRefusedError:
    """Give the error for a return value."""
    if code in _GONE:
        return TokenGoneError(f"{what}: no answer (CKR {code:#x})")
    faults: list[tuple[tuple[int, ...], Fault]] = [
        (_PIN_BLOCKED, "pin-blocked"),
        ((0x101,), "need-pin"),
        ((0x070, 0x071, 0x063, 0x068), "mechanism"),
        (_BAD_CIPHERTEXT, "data"),
    ]
    fault: Fault = next((name for codes, name in faults if code in codes), "other")
    hint = UNBLOCK if fault == "pin-blocked" else None
    return TokenRefusedError(f"{what}: refused (CKR {code:#x})", fault=fault, hint=hint)


def _name(error: Exception) -> str:
    return type(error).__name__


def _fits(uri: TokenUri, token: Any, *, slot_id: int, at: int) -> bool:
    serial = token.serial.decode("utf-8", "replace").rstrip(" \0")
    pairs = (
        (uri.token, str(token.label)),
        (uri.manufacturer, str(token.manufacturer_id)),
        (uri.model, str(token.model)),
        (uri.serial, serial),
    )
    if any(wanted is not None and wanted != found for wanted, found in pairs):
        return False
    # clevis counts slots from 0 where the standard means the module's own number.
    return uri.slot_id is None or uri.slot_id in (slot_id, at)


def _mechanism(name: str) -> _Mechanism:
    if name == "pkcs1":
        return _Mechanism(RSA_PKCS, None, 0)
    hashes = (_SHA1, _MGF1_SHA1) if name == "oaep-sha1" else (_SHA256, _MGF1_SHA256)
    parameters = _OaepParameters(*hashes, _DATA_SPECIFIED, None, 0)
    made = _Mechanism(
        RSA_OAEP, ctypes.cast(ctypes.pointer(parameters), ctypes.c_void_p), ctypes.sizeof(parameters)
    )
    made.kept = parameters  # the pointer's target must live as long
    return made


def _plain(argument: Any) -> Any:
    """The C type of an argument; references and buffers are plain pointers."""
    return type(argument) if isinstance(argument, ctypes.c_ulong) else ctypes.c_void_p
