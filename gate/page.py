"""The card as a plain page: what asks, what of it is proved and what only said, and how to decide in a terminal.

Rule 1: no script, nothing from elsewhere; the style is named in the policy by its digest.
Rule 2: no code and no point, ever. It needs no sign-in: it shows what the holder of the card's address may see.
Rule 3: a claim is never a head, a link or a command; it stands in quotes, apart, with its control characters visible.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.identity.proof import described, is_enrolled
from unlatch.gate.state import State

MAX_CLAIM = 200

STYLE = """
:root{color-scheme:light dark;--bg:#f4f5f7;--surface:#fff;--sunk:#eceff3;--ink:#151a21;--ink-2:#4b5563;--line:#d8dde4;
--line-strong:#737d8b;--accent:#1d53c9;--ok:#14663b}
@media(prefers-color-scheme:dark){:root{--bg:#0f1216;--surface:#181c22;--sunk:#21262e;--ink:#e8ebf0;--ink-2:#aab3bf;
--line:#2d343e;--line-strong:#7c8796;--accent:#8fb4ff;--ok:#7fd6a4}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",
"Liberation Sans",sans-serif;overflow-wrap:anywhere}
main{max-width:44rem;margin:0 auto;padding:24px 16px 48px}
h1{font-size:1.5rem;line-height:1.2;font-weight:650;margin:0 0 8px}
h2{font-size:1rem;line-height:1.35;font-weight:650;margin:0}
p{margin:8px 0 0}.note{color:var(--ink-2);font-size:.875rem}
section{background:var(--surface);border:1px solid var(--line);border-radius:10px;padding:16px;margin-top:16px}
.claimed{border-style:dashed;border-color:var(--line-strong)}
dl{margin:12px 0 0}div{padding:8px 0;border-top:1px solid var(--line)}
dt{color:var(--ink-2);font-size:.875rem}dd{margin:0}
dt::before{margin-right:8px;color:var(--ink-2);content:"\\25CB"}
.verified dt::before{content:"\\2713";color:var(--ok);font-weight:650}.claimed dt::before{content:"\\201C"}
.said{color:var(--ink-2);font-style:italic}
code{display:block;margin-top:8px;padding:8px 12px;background:var(--sunk);border-radius:6px;user-select:all;
font:.875rem/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
a{color:var(--accent);display:inline-block;min-height:44px;line-height:44px}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
@media(min-width:40rem){div{display:grid;grid-template-columns:10rem 1fr;gap:16px}}
"""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'sha256-"
        + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
        + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
    "Cache-Control": "no-store",
}

_HEADS = {
    State.RECEIVED: ("asks to open its secrets", ""),
    State.PENDING: ("asks to open its secrets", ""),
    State.APPROVED: ("is approved", "It opens when its asker collects the answer."),
    State.DELIVERED: ("was approved and opened", "This request is closed. A new start asks anew."),
    State.DENIED: ("was denied", "Nothing was opened. The workload may ask again."),
    State.EXPIRED: ("was not decided in time", "Nothing was opened. The workload may ask again."),
    State.CANCELLED: ("was given up by its asker", "Nothing was opened."),
    State.REFUSED: ("was refused by policy", "Nothing was opened."),
    State.SUPERSEDED: ("asked again", "This request was replaced by a newer one. Nothing was opened."),
}


@dataclass(frozen=True, slots=True)
class Card:
    """What the page says of one request. Times are texts in UTC; `askers` counts open requests for the workload."""

    request: str
    workload: str
    gate: str
    people: str
    client: str
    source: str
    asked: str
    state: State
    approvals: tuple[str, ...]
    needed: int
    seconds_left: int
    askers: int
    closed_by: str | None
    claims: Claims | None
    identity: str | None = None
    """What the asker proved to be, as its receipt says; None where it proved nothing."""


def render_card(card: Card) -> str:
    """The page of one request."""
    words, meaning = _HEADS[card.state]
    head = f"{escape(card.workload)} {words}"
    if card.state == State.DENIED and card.closed_by:
        head += f" by {escape(card.closed_by)}"
    lead = f"<p>{meaning}</p>" if meaning else ""
    is_open = card.state in (State.PENDING, State.APPROVED)
    again = f'<p><a href="/r/{escape(card.request)}">Look again</a></p>' if is_open else ""
    decide = _decide(card) if is_open else ""
    return _page(head, f"{lead}{_verified(card)}{_derived(card)}{_claimed(card)}{decide}{again}")


def render_unknown() -> str:
    """The page for an address that names no request."""
    return _page("No such request", "<p>It may be from another gate, or the address was cut short.</p>")


def said(text: str) -> str:
    """A claim in quotes: isolated from the text around it, its control characters as visible marks."""
    shown = "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)
    cut = shown[:MAX_CLAIM] + ("…" if len(shown) > MAX_CLAIM else "")
    return f'<bdi class="said">“{escape(cut)}”</bdi>'


def _verified(card: Card) -> str:
    rows = [
        ("Workload", escape(card.workload)),
        ("Request", f"{escape(card.request)}, asked at {escape(card.asked)}"),
        ("Address", escape(card.source)),
        ("Gate", escape(card.gate)),
    ]
    if is_enrolled(card.identity):
        rows.insert(1, ("Identity", escape(described(card.identity))))
    return _group("verified", "Verified", "proved by a key, or seen by this gate itself", rows)


def _derived(card: Card) -> str:
    names = f" ({escape(', '.join(card.approvals))})" if card.approvals else ""
    rows = [("Approved", f"{len(card.approvals)} of {card.needed}{names}")]
    if not is_enrolled(card.identity):
        rows.insert(0, ("Identity", escape(described(card.identity))))
    if card.state in (State.PENDING, State.APPROVED):
        rows.append(("Time left", f"{card.seconds_left // 60} min {card.seconds_left % 60} s"))
        others = card.askers - 1
        rows.append(
            ("Askers", "One" if others < 1 else f"{card.askers} at once: be sure which one you started")
        )
    return _group("derived", "Derived", "worked out by this gate from its own records", rows)


def _claimed(card: Card) -> str:
    claims = card.claims
    if claims is None:
        return _group(
            "claimed", "Claimed", "stock clevis asks: it claims nothing, and no code was possible", []
        )
    pairs = {
        "Host": claims.host, "Reason": claims.reason, "Boot": claims.boot_id, "Configuration": claims.config_digest,
        "Bundle": claims.bundle_digest,
    }  # fmt: skip
    rows = [(name, said(text)) for name, text in pairs.items() if text]
    rows += [(said(name), said(text)) for name, text in claims.extra.items()]
    return _group("claimed", "Claimed", "said by the asker; whoever holds its host can write this", rows)


def _decide(card: Card) -> str:
    workload, request, people = escape(card.workload), escape(card.request), escape(card.people)
    how = "If so, read the code on a console of it that you opened yourself, and approve in a terminal:"
    if card.client == "stock":
        how = "No code was possible: the terminal asks for the workload's name instead. If you are sure, approve:"
    return (
        f'<section aria-labelledby="decide"><h2 id="decide">Did you start {workload} just now?</h2><p>{how}</p>'
        f'<code tabindex="0">unlatch approve {request} --gate {people}</code><p>If not, deny:</p>'
        f'<code tabindex="0">unlatch deny {request} --gate {people}</code>'
        '<p class="note">An approval opens this request, once. It takes nothing back that was opened before.</p></section>'
    )


def _group(kind: str, head: str, note: str, rows: Iterable[tuple[str, str]]) -> str:
    """A section of facts; names and values are HTML already."""
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    body = f"<dl>{facts}</dl>" if facts else ""
    return f'<section class="{kind}" aria-labelledby="{kind}"><h2 id="{kind}">{head}</h2><p class="note">{note}</p>{body}</section>'


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} · unlatch gate</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{title}</h1>{body}</main></body></html>\n"
    )
