"""Asks the servers of sealed files for their advertisement: nobody is rung, nothing is spent."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from unlatch.bootstrap.advertisement import Advertisement
from unlatch.bootstrap.doctor import Server
from unlatch.bootstrap.http import Http, HttpReply, RequestsHttp
from unlatch.bootstrap.pins.http import without_userinfo
from unlatch.errors import UnlatchError, UnreachableError

SECONDS = 5.0


def ask(url: str, *, http: Http | None = None, seconds: float = SECONDS) -> Server:
    """Fetch and verify what a server advertises.

    Args:
        url: as the sealed file names it.
        http: carries the request; None is the network.
        seconds: how long the answer may take.
    """
    address = url if "://" in url else f"http://{url}"
    try:
        reply = (http or RequestsHttp()).send("GET", f"{address}/adv", headers={}, body=None, seconds=seconds)
    except UnlatchError as error:
        return Server(trouble=error)
    if reply.status != 200:
        text = f"{without_userinfo(url)} answers HTTP {reply.status}"
        trouble = UnreachableError(
            text, hint="is this still the address of the gate, and the workload there?"
        )
        return Server(date=date_of(reply), trouble=trouble)
    try:
        return Server(Advertisement.parse(reply.body), date_of(reply))
    except UnlatchError as error:
        return Server(date=date_of(reply), trouble=error)


def date_of(reply: HttpReply) -> float | None:
    """Give the Date header in Unix seconds; None where there is none that can be read."""
    try:
        return parsedate_to_datetime(reply.header("date") or "").timestamp()
    except (ValueError, OverflowError):
        return None
