"""Requests as text for a terminal. What an asker claims is quoted, and its control characters are made visible."""

from __future__ import annotations

from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.identity.proof import described, is_enrolled
from unlatch.gate.desk import Standing, VerifiedRequest

MAX_CLAIM = 200


def quoted(text: str, *, limit: int = MAX_CLAIM) -> str:
    """A claim in quotes: no control or direction characters, one line, at most `limit` characters."""
    shown = "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)
    return f"“{shown[:limit]}{'…' if len(shown) > limit else ''}”"


def summary_line(standing: Standing, *, now: float) -> str:
    """One request in the list."""
    left = max(0, int(standing.expires - now))
    approved = f"{len(standing.approvals)} of {standing.needed} approved"
    who = f"{standing.identity}, " if standing.identity != "none" else ""
    return f"{standing.id}  {standing.workload}  {approved}  {left // 60}:{left % 60:02d} left  from {who}{standing.source}"


def card(request: VerifiedRequest, *, now: float) -> str:
    """The card: verified facts first, then what the gate's records say, then claims."""
    receipt, standing = request.receipt, request.standing
    left = max(0, int(receipt.expires - now))
    names = f" ({', '.join(standing.approvals)})" if standing.approvals else ""
    identity = described(receipt.identity)
    lines = [
        f"request {receipt.id}: {receipt.workload} asks to open its secrets",
        "verified",
        f"  workload       {receipt.workload}",
        *([f"  identity       {identity}"] if is_enrolled(receipt.identity) else []),
        f"  gate           {receipt.gate} ({receipt.origin})",
        f"  asked          {int(now - receipt.issued)} s ago, {left // 60}:{left % 60:02d} left",
        *([] if is_enrolled(receipt.identity) else ["derived", f"  identity       {identity}"]),
        "said by the gate",
        f"  from           {request.source}",
        f"  state          {standing.state}, {len(standing.approvals)} of {standing.needed} approved{names}",
    ]
    if receipt.client == "stock":
        lines.append("  client         stock clevis: no code was possible, and it claims nothing")
    if request.claims is not None:
        lines += ["claimed by the asker", *_claim_lines(request.claims)]
    return "\n".join(lines)


def _claim_lines(claims: Claims) -> list[str]:
    pairs = {
        "host": claims.host,
        "boot": claims.boot_id,
        "reason": claims.reason,
        "configuration": claims.config_digest,
        "summary": claims.config_summary,
        "bundle": claims.bundle_digest,
        **claims.extra,
    }
    return [
        f"  {quoted(name, limit=40).strip('“”'):<14} {quoted(text)}" for name, text in pairs.items() if text
    ]
