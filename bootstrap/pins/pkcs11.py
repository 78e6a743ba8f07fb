"""The pkcs11 pin: a content key that a token decrypts, after its PIN.

Rule 1: a PIN is never written into a header, and a wrong one is never tried twice.
Rule 2: a module that others may change is not loaded, for the header that names it is not yet authenticated; a PIN file
that a header names is not read.
Rule 3: sealing needs no PIN: the public half suffices.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding as schemes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from unlatch.bootstrap import jose
from unlatch.bootstrap.pins.pkcs11_header import MECHANISMS, OAEP_PIN, Padding, Pkcs11Pin
from unlatch.bootstrap.policy import Pkcs11Rule
from unlatch.errors import ConfigError, DamagedFileError
from unlatch.memguard._native import Secret, content_key_from_jwk, content_key_to_jwk, jwe_verify
from unlatch.memguard.custodian import token_keys
from unlatch.memguard.custodian.cryptoki import MAX_PIN_BYTES, Module, TokenRefusedError, told
from unlatch.memguard.custodian.modules import find_module
from unlatch.memguard.custodian.page import copied
from unlatch.memguard.custodian.uri import TokenUri

ONE_AT_A_TIME = threading.Lock()
PinSource = Callable[[TokenUri], Secret | None]
"""Gives the PIN for a token; None leaves it to the token's keypad."""
CLEVIS_MECHANISM = "RSA-PKCS"
DEFAULT_MECHANISM = "RSA-OAEP"


def recover(compact: bytes, pin: Pkcs11Pin, *, module: str | None = None, pin_source: PinSource) -> Secret:
    """Give the content key of a JWE sealed to a key in a token.

    Args:
        compact: the JWE.
        pin: what its header says.
        module: the library to load; None leaves it to the URI.
        pin_source: asked once, after the token was found.

    Raises:
        DamagedFileError: no key of the token opens it.
        ConfigError: no module, or no such key.
        UnavailableError: the token is not there.
        TokenRefusedError: wrong PIN, or the token cannot decrypt so.
    """
    with ONE_AT_A_TIME, _session(pin.uri, module) as (loaded, session):
        _login(loaded, session, pin.uri, pin_source)
        for key in _candidates(session, pin):
            try:
                jwk = loaded.decrypt(session, key, pin.key, mechanism=pin.padding)
                content_key = content_key_from_jwk(jwk)
                jwe_verify(compact, content_key)
            except TokenRefusedError as error:
                if error.fault != "data":
                    raise
            except DamagedFileError:
                continue
            else:
                return content_key
    raise DamagedFileError(
        f"no key of {pin.uri.public_text} opens the file",
        hint="the key in the token was replaced since sealing, or the file was altered",
    )


def wrap(
    key: Secret, rule: Pkcs11Rule, *, module: str | None = None, pin_source: PinSource
) -> Mapping[str, object]:
    """Seal a content key to an RSA key in a token; gives the header's `clevis` object.

    Raises:
        ConfigError: no such key, or it is not RSA.
        UnlatchError: as `recover`.
    """
    uri = TokenUri.parse(rule.uri)
    mechanism = rule.mechanism or DEFAULT_MECHANISM
    with ONE_AT_A_TIME, _session(uri, module) as (loaded, session):
        public = _public_key(loaded, session, uri, pin_source)
    jwk = content_key_to_jwk(key)
    with jwk.expose() as view:
        # The copy that OpenSSL reads is a Python object; the process that seals ends soon.
        wrapped = public.encrypt(bytes(view), _padding(MECHANISMS.get(mechanism, "pkcs1")))
    members: dict[str, object] = {"key": jose.encode(wrapped), "uri": uri.public_text}
    if mechanism == CLEVIS_MECHANISM:
        return {"pin": "pkcs11", "pkcs11": members | {"mechanism": CLEVIS_MECHANISM}}
    digest = hashlib.sha256(token_keys.spki(public)).digest()
    return {"pin": OAEP_PIN, OAEP_PIN: members | {"mechanism": mechanism, "key_digest": jose.encode(digest)}}


@contextmanager
def _session(uri: TokenUri, module: str | None) -> Iterator[tuple[Module, Any]]:
    with closing(Module(find_module(uri, module))) as loaded:
        token = loaded.token(uri)
        with told():
            session = token.open()
        yield loaded, session


def _login(loaded: Module, session: Any, uri: TokenUri, pin_source: PinSource) -> None:
    from pkcs11 import TokenFlag

    flags = session.token.flags
    if not flags & TokenFlag.LOGIN_REQUIRED:
        return
    secret = pin_source(uri)
    if secret is None:
        loaded.login(session, None)
        return
    if not 0 < len(secret) <= MAX_PIN_BYTES:
        raise ConfigError("the PIN is empty or too long")
    with copied(secret) as page:
        loaded.login(session, page, len(secret))


def _candidates(session: Any, pin: Pkcs11Pin) -> Iterator[Any]:
    """Keys to try: the one named, and for clevis's files, which do not say, every other RSA key."""
    from pkcs11 import KeyType

    named = token_keys.objects(session, pin.uri, "private")
    if pin.key_digest is None:
        handles = {key.handle for key in named}
        named += [
            key for key in token_keys.objects(session, TokenUri(), "private") if key.handle not in handles
        ]
    for key in named:
        if key.key_type != KeyType.RSA:
            continue
        if pin.key_digest is not None:
            public = token_keys.public_half(session, key)
            if hashlib.sha256(token_keys.spki(public)).digest() != pin.key_digest:
                continue
        yield key


def _public_key(loaded: Module, session: Any, uri: TokenUri, pin_source: PinSource) -> RSAPublicKey:
    """The public key that a URI names; only a token that hides even those is logged in to."""
    from unlatch.memguard.custodian.token_keys import NoSuchKeyError

    for attempt in ("public", "private"):
        if attempt == "private":
            _login(loaded, session, uri, pin_source)
        found = [
            key
            for item in token_keys.objects(session, uri, attempt)
            if isinstance(key := token_keys.public_half(session, item), RSAPublicKey)
        ]
        if len(found) > 1:
            raise NoSuchKeyError(f"{uri.public_text} fits {len(found)} RSA keys", hint="add object= or id=")
        if found:
            return found[0]
    raise NoSuchKeyError(
        f"no RSA key for {uri.public_text}",
        hint="unlatch hsm list shows the keys; unlatch hsm make-key makes one",
    )


def _padding(name: Padding) -> schemes.AsymmetricPadding:
    if name == "pkcs1":
        return schemes.PKCS1v15()
    digest = hashes.SHA256() if name == "oaep" else hashes.SHA1()  # noqa: S303 # OAEP needs no collision resistance
    return schemes.OAEP(schemes.MGF1(digest), digest, None)
