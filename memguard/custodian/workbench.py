"""Keys in hardware, used by a person at a terminal: found, tried, made, and given a certificate request.

Not part of a custodian's service: what is signed here is what the person asked for, never what a network peer sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from unlatch.errors import ConfigError
from unlatch.memguard._native import Secret
from unlatch.memguard.custodian import csr, keyfile, signatures, token_keys
from unlatch.memguard.custodian.backend import Key, Missing, Signer
from unlatch.memguard.custodian.cryptoki import MAX_PIN_BYTES, Module, told
from unlatch.memguard.custodian.handshake import check, method
from unlatch.memguard.custodian.keyfile import TpmKey
from unlatch.memguard.custodian.modules import find_module
from unlatch.memguard.custodian.page import copied
from unlatch.memguard.custodian.pkcs11 import Pkcs11Backend
from unlatch.memguard.custodian.pkcs11 import Wanted as WantedInToken
from unlatch.memguard.custodian.tpm2 import PROBE, Tpm2Backend
from unlatch.memguard.custodian.tpm2 import Wanted as WantedInTpm
from unlatch.memguard.custodian.uri import TokenUri

PinSource = Callable[[TokenUri], Secret | None]
KINDS = ("ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096")


@dataclass(frozen=True, slots=True)
class Found:
    """A key and the way to it, for one block."""

    key: Key
    signer: Signer

    def try_out(self) -> None:
        """Sign a handshake message and check it.

        Raises:
            UnlatchError: the hardware refused; WrongSignatureError: it signed wrongly.
        """
        scheme = next(
            one for one in self.key.schemes if not 0x0400 < one < 0x0700 or self.key.algorithm != "rsa"
        )
        how = method(self.key.algorithm, scheme, "tls12")
        check(PROBE)
        signatures.verify(self.key.public, how, PROBE, self.signer.sign(self.key, how, PROBE))

    def request(self, names: Sequence[str]) -> bytes:
        """Give a certificate request in PEM."""
        body = csr.to_be_signed(token_keys.spki(self.key.public), names)
        how = csr.signing_method(self.key.algorithm)
        signature = self.signer.sign(self.key, how, body)
        signatures.verify(self.key.public, how, body, signature)
        return csr.signed(body, self.key.algorithm, signature)


@contextmanager
def in_token(uri: TokenUri, *, pin_source: PinSource) -> Iterator[Found]:
    """Find a key in a token and log in.

    Raises:
        UnlatchError: no module, token or key, or the PIN was refused.
    """
    backend = Pkcs11Backend(find_module(uri), uri, [WantedInToken(0, uri.public_text, uri)], sessions=1)
    try:
        backend.start()
        if backend.needs_pin:
            _give_pin(pin_source(uri), backend.login)
        found = _only(backend.find_keys())
        with closing(backend.signer()) as signer:
            yield Found(found, signer)
    finally:
        backend.stop()


@contextmanager
def in_tpm(key: TpmKey, *, name: str, tcti: str | None = None) -> Iterator[Found]:
    """Load a TPM's key.

    Raises:
        UnlatchError: no TPM, or it is another one's key.
    """
    backend = Tpm2Backend([WantedInTpm(0, name, key)], tcti=tcti)
    try:
        backend.start()
        yield Found(_only(backend.find_keys()), backend.signer())
    finally:
        backend.stop()


def make_in_token(uri: TokenUri, kind: str, *, pin_source: PinSource) -> None:
    """Make a key pair that the token never gives out.

    Raises:
        ConfigError: an unknown kind, no label, or a key of this name is there.
        UnlatchError: as the token says.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind of key is not one of {', '.join(KINDS)}")
    if uri.object is None:
        raise ConfigError("the URI names no key", hint="add object=NAME")
    with closing(Module(find_module(uri))) as module:
        token = module.token(uri)
        with told():
            session = token.open(rw=True)
        _give_pin(pin_source(uri), lambda page, size: module.login(session, page, size))
        if token_keys.objects(session, TokenUri(object=uri.object), "private"):
            raise ConfigError(
                f"token {token.label} has a key {uri.object!r} already", hint="choose another name"
            )
        with told():
            _generate(session, kind, uri.object, uri.id)


def _generate(session: Any, kind: str, label: str, identity: bytes | None) -> None:
    from pkcs11 import Attribute, KeyType, Mechanism
    from pkcs11.util.ec import encode_named_curve_parameters

    private = {
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.SIGN: True,
        Attribute.DECRYPT: kind.startswith("rsa"),
        Attribute.UNWRAP: False,
    }
    common: dict[str, Any] = {
        "label": label,
        "id": identity if identity is not None else label.encode()[:32],
        "store": True,
        "private_template": private,
    }
    if kind.startswith("rsa"):
        session.generate_keypair(KeyType.RSA, int(kind[4:]), **common)
        return
    if kind == "ed25519":
        parameters, key_type = token_keys.EDWARDS_25519[0], KeyType.EC_EDWARDS
        mechanism = Mechanism.EC_EDWARDS_KEY_PAIR_GEN
    else:
        name = {"ecdsa-p256": "secp256r1", "ecdsa-p384": "secp384r1"}[kind]
        parameters, key_type = encode_named_curve_parameters(name), KeyType.EC
        mechanism = Mechanism.EC_KEY_PAIR_GEN
    domain = session.create_domain_parameters(key_type, {Attribute.EC_PARAMS: parameters}, local=True)
    domain.generate_keypair(mechanism=mechanism, **common)


def read_tpm_key(data: bytes) -> TpmKey:
    """Read a TPM's key file.

    Raises:
        ConfigError: it holds none.
    """
    key = keyfile.find(data)
    if not isinstance(key, TpmKey):
        raise ConfigError("no TSS2 PRIVATE KEY in the file", hint="unlatch tpm make-key --out FILE makes one")
    return key


def _give_pin(secret: Secret | None, login: Callable[[Any, int], None]) -> None:
    if secret is None:
        raise ConfigError("no PIN")
    if not 0 < len(secret) <= MAX_PIN_BYTES:
        raise ConfigError("the PIN is empty or too long")
    with copied(secret) as page:
        login(page, len(secret))


def _only(found: Sequence[Key | Missing]) -> Key:
    (one,) = found
    if isinstance(one, Missing):
        raise ConfigError(one.reason)
    return one
