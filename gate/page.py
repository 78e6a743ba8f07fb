"""The card as a plain page: what asks, how it stands, and how to decide in a terminal. No script, nothing from elsewhere.

It shows no claim, no code and no point: it needs no sign-in, so it says only what the address's holder knows.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

from unlatch.gate.state import State

STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:0 auto;padding:16px;overflow-wrap:anywhere}"
    "h1{font-size:24px;line-height:1.25}dt{color:GrayText}dd{margin:0 0 12px}"
    "code{display:block;padding:12px;border:1px solid GrayText;border-radius:6px;white-space:pre-wrap}"
)
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

_STATES = {
    State.RECEIVED: "was received",
    State.PENDING: "waits for approval",
    State.APPROVED: "is approved, and waits for its asker to collect the answer",
    State.DELIVERED: "was approved and answered. It is closed",
    State.DENIED: "was denied. Nothing was opened",
    State.EXPIRED: "expired. Nothing was opened",
    State.CANCELLED: "was given up by its asker. Nothing was opened",
    State.REFUSED: "was refused by policy. Nothing was opened",
    State.SUPERSEDED: "was replaced by a newer one. Nothing was opened",
}


def render_card(
    *, request: str, workload: str, state: State, approvals: list[str], needed: int, seconds_left: int
) -> str:
    """The page of one request."""
    rows = [("Request", request), ("Workload", workload)]
    commands = ""
    if state in (State.PENDING, State.APPROVED):
        names = f" ({', '.join(approvals)})" if approvals else ""
        rows.append(("Approved", f"{len(approvals)} of {needed}{names}"))
        rows.append(("Time left", f"{seconds_left // 60} min {seconds_left % 60} s"))
        commands = (
            f"<h2>Did you start {escape(workload)} just now?</h2>"
            "<p>If so, read the code on a console of it that you opened yourself, and approve in a terminal:</p>"
            f"<code>unlatch approve {escape(request)}</code><p>If not, deny:</p>"
            f"<code>unlatch deny {escape(request)}</code>"
        )
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return _page(f"{escape(workload)} {_STATES[state]}", f"<dl>{facts}</dl>{commands}")


def render_unknown() -> str:
    """The page for an address that names no request."""
    return _page("No such request", "<p>It may be from another gate, or the address was cut short.</p>")


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} · unlatch gate</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{title}</h1>{body}</main></body></html>"
    )
