"""Edge's memory at rest holds no ticket key, though it gave and took tickets; what must be there is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.edge_bench import Bench
from support.edge_upstream import Upstream

pytestmark = pytest.mark.memory

ASK = "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n"
SESSIONS = 50
PIECE = 16


def pieces(secret: bytes) -> set[bytes]:
    """The whole, and every 16 bytes of it."""
    return {secret[at : at + PIECE] for at in range(len(secret) - PIECE + 1)}


def found(pid: int, needles: set[bytes]) -> int:
    """How many of the needles stand in the memory of a process; every readable mapping is read."""
    hits = 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_, name = line.split(maxsplit=5) if line.count(" ") > 4 else [*line.split(), ""]
            if "r" not in rights or name.strip() in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            memory.seek(start)
            data = b""
            while len(data) < end - start and (piece := memory.read(end - start - len(data))):
                data += piece
            hits += sum(needle in data for needle in needles)
    return hits


def test_ticket_keys_stand_nowhere_in_edge_at_rest() -> None:
    if os.getuid() != 0:
        pytest.fail("reading the memory of a process that is not dumpable needs root")
    previous, current = os.urandom(32), os.urandom(32)
    with Upstream() as app, Bench(servers={"app": [app.address]}, workers=2) as bench:
        bench.signer.ticket_keys = (7, 3600, previous, current)
        fresh = [bench.signer.connect() for _ in range(2)]
        bench.program.order({"do": "guard"}, [one.fileno() for one in fresh])
        assert bench.program.event() == {"event": "replaced"}
        for one in fresh:
            one.close()
        context, session, resumed = bench.context(), None, 0
        for _ in range(SESSIONS):
            with bench.connect(context=context, session=session) as client:
                assert client.ask(ASK).status == 200
                session, resumed = client.tls.session, resumed + client.tls.session_reused

        assert resumed == SESSIONS - 1
        assert found(bench.program.process.pid, pieces(previous) | pieces(current)) == 0
        # The same scan finds what lies there in clear: a name that edge was told.
        address = app.address.encode()
        assert found(bench.program.process.pid, {address}) > 0
        assert found(os.getpid(), pieces(current)) > 0
