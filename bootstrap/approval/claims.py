"""What the asker says of itself, frozen at its first request.

Claims are said, not proved: the card marks them so. Their digest stands in the receipt and, through the
statement, under the operator's signature, so that nobody can change them between asking and approving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import rfc8785

from unlatch.bootstrap.approval import base64url, strict_json

HEADER = "Unlatch-Claims"
MAX_HEADER_BYTES = 4096
MAX_SUMMARY_BYTES = 2048

_LIMITS = {"workload": 64, "host": 253, "boot_id": 64, "reason": 500, "config_summary": MAX_SUMMARY_BYTES}
_DIGESTS = ("config_digest", "bundle_digest")


@dataclass(frozen=True, slots=True)
class Claims:
    """Who asks, why, and with what configuration and bundle.

    `config_digest` and `bundle_digest` are SHA-256 in base64url (43 characters); `extra` is what a local
    hook added. Lengths are in bytes of UTF-8: reason 500, summary 2048, the whole header value 4096.
    """

    workload: str
    host: str
    boot_id: str | None = None
    reason: str | None = None
    config_digest: str | None = None
    config_summary: str | None = None
    bundle_digest: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def for_workload(self, workload: str) -> Claims:
        """The same claims towards another gate, where the workload may have another name."""
        return replace(self, workload=workload)

    def encode(self) -> bytes:
        """Canonical JSON (RFC 8785) without what is not said.

        Raises:
            ValueError: a value is too long or no text.
        """
        members: dict[str, Any] = {name: getattr(self, name) for name in (*_LIMITS, *_DIGESTS)}
        members = {name: value for name, value in members.items() if value is not None}
        if self.extra:
            members["extra"] = dict(self.extra)
        data = rfc8785.dumps(members)
        Claims.parse(data)
        return data

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the JSON of a claims header.

        Raises:
            ValueError: not an object, an unknown member, a wrong type, or too long.
        """
        members = strict_json.read_object(data)
        unknown = members.keys() - {*_LIMITS, *_DIGESTS, "extra"}
        if unknown:
            raise ValueError("unknown members in the claims")
        for name, limit in _LIMITS.items():
            _check_text(members.get(name), limit=limit, needed=name in ("workload", "host"))
        for name in _DIGESTS:
            if name in members and not base64url.is_digest(members[name]):
                raise ValueError(f"{name} is no SHA-256 digest in base64url")
        extra = members.get("extra", {})
        if not isinstance(extra, dict):
            raise ValueError("extra claims are no object")  # noqa: TRY004 - one error for every wrong byte from outside
        for value in extra.values():
            _check_text(value, limit=500, needed=True)
        return cls(**members)


def header_value(data: bytes) -> str:
    """The header's text for some claims.

    Raises:
        ValueError: longer than 4096 characters.
    """
    text = base64url.encode(data)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"claims of {len(text)} characters, {MAX_HEADER_BYTES} are allowed")
    return text


def _check_text(value: object, *, limit: int, needed: bool) -> None:
    if value is None and not needed:
        return
    if not isinstance(value, str):
        raise ValueError("a claim is missing or no text")  # noqa: TRY004 - one error for every wrong byte from outside
    if len(value.encode("utf-8", "surrogatepass")) > limit:
        raise ValueError("a claim is too long")
