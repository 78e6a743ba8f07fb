"""Fixtures that start real servers: upstreams, Tang, the proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gate import Gate
from support.product import Proxy
from support.sealed_site import Site, seal_site
from support.tangd import Tangd
from support.upstream import serving_ok


@pytest.fixture
def upstream() -> Iterator[int]:
    """The port of a plain HTTP server."""
    with serving_ok() as port:
        yield port


@pytest.fixture
def tangd() -> Iterator[Tangd]:
    """Debian's tangd."""
    with Tangd() as server:
        yield server


@pytest.fixture
def site(tmp_path: Path, tangd: Tangd, upstream: int) -> Iterator[Site]:
    """A sealed site, not yet served."""
    made = seal_site(tmp_path, tangd.url, tangd.thumbprint, upstream)
    yield made
    made.psp.close()


@pytest.fixture
def proxy(site: Site) -> Iterator[Proxy]:
    """The site, served."""
    with Proxy(site.folder, site.config) as running:
        running.wait_for_event("serving")
        yield running


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate with one operator and the workload pay, for native and stock clients."""
    with Gate(tmp_path) as running:
        yield running


@pytest.fixture
def gated(tmp_path: Path, gate: Gate, upstream: int) -> Iterator[Site]:
    """A site sealed to the gate, not yet served."""
    made = seal_site(tmp_path, gate.workload_url(), gate.thumbprint, upstream)
    yield made
    made.psp.close()
