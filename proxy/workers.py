"""Edge and egress, and the sockets that join them to guard and to each other.

A dead one is started again with new sockets to guard; the other keeps running and gets the new end of the socket
between them. The listening sockets belong to the door and outlive both.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Mapping
from typing import Any

from unlatch.errors import ConfigError, UnlatchError
from unlatch.proxy.child import Child
from unlatch.proxy.config import MAX_SLOW_SIGNATURES
from unlatch.proxy.door import Door
from unlatch.proxy.guard_process import Guard
from unlatch.proxy.log import log
from unlatch.proxy.users import Identity
from unlatch.proxy.wiring import Granted, Wiring


class Workers:
    """The two programs of one run: from one unlock to the end of its guard."""

    def __init__(self, door: Door, *, count: int, users: Mapping[str, Identity]) -> None:
        self._door = door
        self._count = count
        self._users = users
        self._node = uuid.uuid4().hex
        self._children: dict[str, Child] = {}
        self._sockets: dict[str, list[socket.socket]] = {"edge": [], "slow": [], "egress": []}
        self._between: socket.socket | None = None

    async def start(self, guard: Guard, wiring: Wiring, granted: Granted) -> None:
        """Start egress, if a route needs it, then edge, which is ready when this returns."""
        if wiring.needs_egress:
            await self._start_egress(guard, wiring, granted)
        await self._start_edge(guard, wiring, granted)

    async def restart(self, role: str, guard: Guard, wiring: Wiring, granted: Granted) -> None:
        """Start one of them again, which has ended."""
        await self._children[role].kill()
        # Guard serves a bounded number of sockets: those of the dead go first.
        for kind in ("edge", "slow") if role == "edge" else ("egress",):
            self._replace_sockets(kind, [])
        if role == "edge":
            await self._start_edge(guard, wiring, granted)
        else:
            await self._start_egress(guard, wiring, granted)

    async def ended(self, role: str) -> int:
        """Wait for the end of one; gives its status. One that was never started has no end."""
        child = self._children.get(role)
        if child is None:
            await asyncio.Event().wait()
            raise AssertionError
        return await child.process.wait()

    async def reload(self, before: Wiring, after: Wiring, granted: Granted) -> None:
        """Hand over another configuration that guard has taken already.

        Raises:
            ConfigError: it needs what only a start can give, or one of them refuses it.
        """
        if not after.key_names <= before.key_names:
            raise ConfigError(
                "a key that this start did not use cannot be added by reload",
                hint="restart the proxy to use it",
            )
        if after.needs_egress != before.needs_egress:
            raise ConfigError(
                "the first or last route to egress cannot come or go by reload", hint="restart the proxy"
            )
        if after.needs_egress:
            (one,) = self._sockets["egress"]
            config = after.egress(granted) | {"guard": [one.fileno()], "edge": None}
            await self._children["egress"].reload(config)
        await self._children["edge"].reload(self._edge_config(after, granted))

    async def end(self, drain: float) -> None:
        """End both; edge may finish its requests first, in so many seconds."""
        children, self._children = self._children, {}
        if (edge := children.get("edge")) is not None:
            await (edge.drain(drain) if drain else edge.kill())
        if (egress := children.get("egress")) is not None:
            await egress.kill()
        if self._between is not None:
            self._between.close()
            self._between = None
        for role in self._sockets:
            self._replace_sockets(role, [])

    def describe(self) -> dict[str, Any]:
        """Process ids and descriptors, for `status`."""
        return {
            role: {"pid": child.process.pid, "guard": [one.fileno() for one in self._sockets[role]]}
            for role, child in self._children.items()
        }

    async def edge_status(self) -> dict[str, Any]:
        """Edge's counters; empty while it does not answer."""
        try:
            return await self._children["edge"].status()
        except (KeyError, UnlatchError):
            return {}

    async def _start_edge(self, guard: Guard, wiring: Wiring, granted: Granted) -> None:
        rights = {
            "node": self._node,
            "keys": wiring.key_ids(granted),
            "rate": wiring.loaded.config.limits.signatures,
        }
        sockets = [await guard.worker_socket("edge", **rights) for _ in range(self._count)]
        self._replace_sockets("edge", sockets)
        slow_keys = wiring.slow_key_ids(granted)
        # As many as limits.slow_signatures may ever name, so that a reload can change it.
        count = MAX_SLOW_SIGNATURES if slow_keys else 0
        slow = [await guard.worker_socket("edge", **rights | {"keys": slow_keys}) for _ in range(count)]
        self._replace_sockets("slow", slow)
        edge_end: socket.socket | None = None
        if (egress := self._children.get("egress")) is not None:
            edge_end, egress_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with egress_end:
                await egress.give("edge", egress_end.fileno())
            self._replace_between(edge_end)
        listening = [one for group in self._door.sockets.values() for one in group]
        given = [*sockets, *slow, *listening] + ([edge_end] if edge_end else [])
        child = await Child.start(
            "edge",
            self._edge_config(wiring, granted),
            [one.fileno() for one in given],
            user=self._users.get("edge"),
        )
        self._children["edge"] = child
        log("edge started", pid=child.process.pid)

    def _edge_config(self, wiring: Wiring, granted: Granted) -> dict[str, Any]:
        config = wiring.edge(granted)
        for listener in config["listeners"]:
            listener["sockets"] = [one.fileno() for one in self._door.sockets[listener["name"]]]
        return config | {
            "workers": self._count,
            "node": self._node,
            "guard": [one.fileno() for one in self._sockets["edge"]],
            "guard_slow": [one.fileno() for one in self._sockets["slow"]],
            "egress": self._between.fileno() if self._between else None,
        }

    async def _start_egress(self, guard: Guard, wiring: Wiring, granted: Granted) -> None:
        one = await guard.worker_socket("egress")
        self._replace_sockets("egress", [one])
        edge_end, egress_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with egress_end:
            config = wiring.egress(granted) | {"guard": [one.fileno()], "edge": egress_end.fileno()}
            given = [one.fileno(), egress_end.fileno()]
            child = await Child.start("egress", config, given, user=self._users.get("egress"))
        self._children["egress"] = child
        if (edge := self._children.get("edge")) is not None:
            await edge.give("egress", edge_end.fileno())
        self._replace_between(edge_end)
        log("egress started", pid=child.process.pid)

    def _replace_sockets(self, role: str, sockets: list[socket.socket]) -> None:
        for one in self._sockets[role]:
            one.close()
        self._sockets[role] = sockets

    def _replace_between(self, end: socket.socket) -> None:
        if self._between is not None:
            self._between.close()
        self._between = end
