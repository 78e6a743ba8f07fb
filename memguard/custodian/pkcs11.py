"""Keys in a PKCS#11 token, behind a custodian's service.

One login serves the whole process and lasts as long as the anchor session; every worker thread has a session of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from unlatch.errors import ConfigError, UnlatchError
from unlatch.memguard.custodian import token_keys
from unlatch.memguard.custodian.backend import Key, Missing
from unlatch.memguard.custodian.cryptoki import Module, TokenGoneError, TokenRefusedError, hang_up, told
from unlatch.memguard.custodian.handshake import Algorithm, Method, schemes_of
from unlatch.memguard.custodian.page import LockedPage
from unlatch.memguard.custodian.signatures import DIGEST_INFO, algorithm_of, from_halves
from unlatch.memguard.custodian.uri import TokenUri


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key as the configuration names it."""

    id: int
    name: str
    uri: TokenUri


class Pkcs11Backend:
    """One token of one module."""

    def __init__(
        self,
        path: str,
        token: TokenUri,
        wanted: list[Wanted],
        *,
        sessions: int,
        parameters: str | None = None,
    ) -> None:
        self._path, self._uri, self._wanted, self._parameters = path, token, wanted, parameters
        self._sessions = sessions
        self._turn = threading.RLock()
        self._module: Module | None = None
        self._token: Any = None
        self._anchor: Any = None

    @property
    def workers(self) -> int:
        """As many as there are sessions."""
        return self._sessions

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Call the module: at once, or, where it takes no threads, one after the other."""
        if self._module is None or self._module.has_threads:
            yield
        else:
            with self._turn:
                yield

    @property
    def needs_pin(self) -> bool:
        """As the token's flags say."""
        from pkcs11 import TokenFlag

        return bool(self._token is not None and self._token.flags & TokenFlag.LOGIN_REQUIRED)

    def start(self) -> None:
        """Load the module, find the token, and open the session that keeps the login."""
        if self._module is None:
            self._module = Module(self._path, parameters=self._parameters)
        else:
            self._module.restart()
        self._token = self._module.token(self._uri)
        self._anchor = self.open()

    def login(self, pin: LockedPage, size: int) -> None:
        """Log in."""
        if self._module is None or self._anchor is None:
            raise TokenGoneError("no token to log in to")
        self._module.login(self._anchor, pin, size)

    def find_keys(self) -> list[Key | Missing]:
        """Find every key again: what was rotated under its URI is found under its new self."""
        with self.turn():
            return [self._find(one) for one in self._wanted]

    def signer(self) -> Pkcs11Signer:
        """Open a session for this thread."""
        with self.turn():
            return Pkcs11Signer(
                self, self.open(), {one.id: one.uri for one in self._wanted}, self._mechanisms()
            )

    def probe(self) -> None:
        """Ask the slot whether its token is still there."""
        with self.turn(), told():
            self._token.slot.get_token()

    def stop(self) -> None:
        """Forget sessions; the module itself starts again with `start`."""
        if self._anchor is not None:
            hang_up(self._anchor)
        self._anchor = self._token = None

    def open(self) -> Any:
        """Open a session."""
        with told():
            return self._token.open()

    def _mechanisms(self) -> frozenset[int]:
        with told():
            return frozenset(int(mechanism) for mechanism in self._token.slot.get_mechanisms())

    def _find(self, wanted: Wanted) -> Key | Missing:
        from pkcs11 import Attribute

        try:
            found = token_keys.private_key(self._anchor, wanted.uri)
            if token_keys.attribute(found, Attribute.ALWAYS_AUTHENTICATE):
                raise ConfigError(
                    f"{wanted.uri.public_text} wants its PIN for every signature: choose another slot of the token"
                )
            public = token_keys.public_half(self._anchor, found)
            algorithm = algorithm_of(public)
            return Key(wanted.id, wanted.name, algorithm, public, _schemes(algorithm, self._mechanisms()))
        except TokenGoneError:
            raise
        except UnlatchError as error:
            return Missing(wanted.id, wanted.name, str(error))


class Pkcs11Signer:
    """One session. Key handles are found once."""

    def __init__(
        self, backend: Pkcs11Backend, session: Any, uris: dict[int, TokenUri], mechanisms: frozenset[int]
    ) -> None:
        self._backend, self._session, self._uris, self._mechanisms = backend, session, uris, mechanisms
        self._found: dict[int, Any] = {}

    def sign(self, key: Key, method: Method, message: bytes) -> bytes:
        """Sign with a key of the token."""
        with self._backend.turn(), told():
            found = self._found.get(key.id)
            if found is None:
                found = self._found[key.id] = token_keys.private_key(self._session, self._uris[key.id])
            return _signed(found, key.algorithm, method, message, self._mechanisms)

    def close(self) -> None:
        """Close the session."""
        with self._backend.turn():
            hang_up(self._session)


def _signed(found: Any, algorithm: Algorithm, method: Method, message: bytes, known: frozenset[int]) -> bytes:
    from pkcs11 import MGF, Mechanism

    if algorithm == "ed25519":
        return bytes(found.sign(message, mechanism=Mechanism.EDDSA))
    digest = method.digest(message)
    if algorithm != "rsa":
        # Tokens differ in what they do with a digest longer than the curve: ECDSA takes its leftmost bits.
        order = {"ecdsa-p256": 32, "ecdsa-p384": 48, "ecdsa-p521": 66}[algorithm]
        return from_halves(bytes(found.sign(digest[:order], mechanism=Mechanism.ECDSA)))
    name = str(method.hash).upper()
    if method.padding == "pkcs1":
        if Mechanism.RSA_PKCS in known:
            return bytes(found.sign(DIGEST_INFO[str(method.hash)] + digest, mechanism=Mechanism.RSA_PKCS))
        return bytes(found.sign(message, mechanism=Mechanism[f"{name}_RSA_PKCS"]))
    parameters = (Mechanism[name], MGF[name], len(digest))
    if Mechanism.RSA_PKCS_PSS in known:
        return bytes(found.sign(digest, mechanism=Mechanism.RSA_PKCS_PSS, mechanism_param=parameters))
    whole = Mechanism[f"{name}_RSA_PKCS_PSS"]
    return bytes(found.sign(message, mechanism=whole, mechanism_param=parameters))


def _schemes(algorithm: Algorithm, known: frozenset[int]) -> tuple[int, ...]:
    """TLS schemes that the token's mechanisms make."""
    from pkcs11 import Mechanism

    if algorithm != "rsa":
        wanted = Mechanism.EDDSA if algorithm == "ed25519" else Mechanism.ECDSA
        if wanted not in known:
            raise TokenRefusedError(f"the token cannot sign with {algorithm}", fault="mechanism")
        return schemes_of(algorithm)
    able: list[int] = []
    for scheme in schemes_of("rsa"):
        pss = scheme >= 0x0800
        name = ("SHA256", "SHA384", "SHA512")[scheme - 0x0804 if pss else (scheme >> 8) - 4]
        raw = Mechanism.RSA_PKCS_PSS if pss else Mechanism.RSA_PKCS
        if raw in known or Mechanism[f"{name}_RSA_PKCS{'_PSS' if pss else ''}"] in known:
            able.append(scheme)
    if not able:
        raise TokenRefusedError("the token cannot sign with RSA", fault="mechanism")
    return tuple(able)
