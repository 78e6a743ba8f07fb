"""What stands in the tokens of a module: for people who look for a key's name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from unlatch.errors import ConfigError, UnlatchError
from unlatch.memguard._native import Secret
from unlatch.memguard.custodian import token_keys
from unlatch.memguard.custodian.cryptoki import Module, hang_up, told
from unlatch.memguard.custodian.modules import find_module
from unlatch.memguard.custodian.page import copied
from unlatch.memguard.custodian.signatures import algorithm_of
from unlatch.memguard.custodian.uri import TokenUri

WARNINGS = {
    0x10000: "a wrong PIN was tried since the last good one",
    0x20000: "one attempt is left before the PIN locks",
    0x40000: "the PIN is locked",
}


def tokens(uri: TokenUri, *, pin_source: Callable[[TokenUri], Secret | None] | None) -> list[dict[str, Any]]:
    """Describe every token that a URI fits, with its keys.

    Args:
        uri: what to look for; `pkcs11:` is everything.
        pin_source: to log in; None shows what shows itself.

    Raises:
        UnlatchError: no module, or a PIN that was refused.
    """
    path = find_module(uri)
    with closing(Module(path)) as module:
        return [
            _token(module, token, uri, pin_source) for token in module.tokens(uri) if str(token.label).strip()
        ]


def _token(
    module: Module, token: Any, uri: TokenUri, pin_source: Callable[[TokenUri], Secret | None] | None
) -> dict[str, Any]:
    flags = int(token.flags)
    own = TokenUri(token=str(token.label), module_path=uri.module_path)
    with told():
        session = token.open()
    try:
        if pin_source is not None and (secret := pin_source(own)) is not None:
            with copied(secret) as page:
                module.login(session, page, len(secret))
        keys = [
            _key(session, item, kind, own)
            for kind in ("private", "public", "cert")
            for item in _items(session, uri, kind)
        ]
    finally:
        hang_up(session)
    return {
        "label": str(token.label),
        "manufacturer": str(token.manufacturer_id),
        "model": str(token.model),
        "serial": token.serial.decode("utf-8", "replace").rstrip(" \0"),
        "warnings": [text for bit, text in WARNINGS.items() if flags & bit],
        "keys": keys,
    }


def _items(session: Any, uri: TokenUri, kind: str) -> list[Any]:
    return token_keys.objects(session, uri, kind)


def _key(session: Any, item: Any, kind: str, token: TokenUri) -> dict[str, Any]:
    from pkcs11 import Attribute

    identity = token_keys.attribute(item, Attribute.ID)
    name = TokenUri(
        token=token.token,
        object=token_keys.label(item) or None,
        id=bytes(identity) if identity else None,
        type=kind,
        module_path=token.module_path,
    )
    try:
        algorithm: str = algorithm_of(token_keys.public_half(session, item)) if kind != "cert" else "x.509"
    except ConfigError:
        algorithm = "?"
    except UnlatchError as error:
        algorithm = f"? ({error})"
    return {"kind": kind, "algorithm": algorithm, "uri": name.public_text}
