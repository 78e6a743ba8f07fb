"""Words from the other side, made fit for one line of a terminal."""

from __future__ import annotations


def printable(text: object, *, limit: int = 200) -> str:
    """At most `limit` characters, none of which moves the cursor, changes direction or breaks the line."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:limit])
