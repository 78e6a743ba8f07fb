"""The service manager's notifications: sd_notify(3) without its library."""

from __future__ import annotations

import os
import socket


def notify(*assignments: str) -> None:
    """Send `READY=1`, `STATUS=…` and the like to `$NOTIFY_SOCKET`, if there is one.

    A service manager that went away is its own affair: nothing fails here.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.send("\n".join(assignments).encode())
        except OSError:
            return
