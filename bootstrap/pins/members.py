"""Members of a header, and what to say when one is missing or wrong."""

from __future__ import annotations

from collections.abc import Mapping

from unlatch.bootstrap import jose
from unlatch.errors import DamagedFileError

ALTERED = "the header was altered after sealing, or cut short: restore the file from a copy"


def member(holder: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Give an object.

    Raises:
        DamagedFileError: it is missing, or no object.
    """
    value = holder.get(name)
    if not isinstance(value, dict):
        raise DamagedFileError(f"header has no {name} object", hint=ALTERED)
    return value


def text(holder: Mapping[str, object], name: str, *, pin: str) -> str:
    """Give a string.

    Raises:
        DamagedFileError: it is missing, or no string.
    """
    value = holder.get(name)
    if not isinstance(value, str):
        raise DamagedFileError(f"{pin}: header has no clevis.{pin}.{name}", hint=ALTERED)
    return value


def blob(holder: Mapping[str, object], name: str, *, pin: str) -> bytes:
    """Give bytes written in base64url.

    Raises:
        DamagedFileError: it is missing, or not base64url.
    """
    try:
        return jose.decode(text(holder, name, pin=pin))
    except ValueError as error:
        raise DamagedFileError(f"{pin}: clevis.{pin}.{name} is {error}", hint=ALTERED) from error
