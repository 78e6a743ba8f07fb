"""What edge and egress cannot do: filters on every thread, as root's child and as anybody's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.edge_bench import Bench
from support.edge_egress import NAME, Injection, TlsIdentity
from support.edge_process import Program
from support.edge_upstream import Upstream

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


def tell(program: Program, field: str) -> set[str]:
    """A line of /proc/PID/status, of all threads."""
    tasks = Path(f"/proc/{program.process.pid}/task")
    lines = [line for task in tasks.iterdir() for line in (task / "status").read_text().splitlines()]
    return {line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{field}:")}


def is_confined(program: Program) -> bool:
    confined = program.status()["confined"]
    return (tell(program, "Seccomp"), tell(program, "NoNewPrivs"), confined) == (
        {"2"},
        {"1"},
        {"seccomp": True, "landlock": True, "refused_calls": {}},
    )


def test_every_thread_of_edge_is_confined() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}, workers=2, slow=(1,)) as bench:
        assert bench.get().status == 200
        assert len(list(Path(f"/proc/{bench.program.process.pid}/task").iterdir())) == 1 + 1 + 2 + 4
        assert is_confined(bench.program)


def test_egress_is_confined(tmp_path: Path) -> None:
    identity = TlsIdentity(tmp_path, NAME)
    with Upstream(tls=identity.context) as psp, Injection(psp, identity.ca) as way:
        assert way.get().status == 200
        assert is_confined(way.egress)
        assert is_confined(way.bench.program)


@needs_root
def test_edge_is_confined_as_a_user_of_its_own() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}, becomes="901:902") as bench:
        assert bench.get().status == 200
        assert is_confined(bench.program)
        assert tell(bench.program, "Uid") == {"\t".join(["901"] * 4)}


@needs_root
def test_unprivileged_edge_is_confined() -> None:
    with Upstream() as app, Bench(servers={"app": [app.address]}, runs_as=NOBODY) as bench:
        assert bench.get().status == 200
        assert is_confined(bench.program)
        assert tell(bench.program, "CapEff") == {"0" * 16}


def test_upstreams_can_be_named() -> None:
    with Upstream() as app, Bench(servers={"app": [f"localhost:{app.port}"]}) as bench:
        assert [bench.get().status for _ in range(3)] == [200] * 3
        assert is_confined(bench.program)


def test_name_that_nobody_knows_is_asked_for_in_peace() -> None:
    with Bench(servers={"app": ["unlatch.invalid:80"]}, timeouts={"connect": 500}) as bench:
        assert bench.get().status in {502, 504}
        assert is_confined(bench.program)
