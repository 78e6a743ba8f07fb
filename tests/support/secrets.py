"""Secrets in tests: made from and turned into bytes, which production code never does."""

from __future__ import annotations

from unlatch.memguard._native import Secret


def secret(data: bytes) -> Secret:
    """Bytes as a Secret."""
    return Secret.copy_from(data)


def revealed(value: Secret) -> bytes:
    """A Secret as bytes."""
    with value.expose() as view:
        return bytes(view)
