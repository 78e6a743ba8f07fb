"""A host key at the place that the configuration names."""

from __future__ import annotations

import pytest
from support.gate import Gate
from support.product import Proxy, unlatch
from support.sealed_site import Site

pytestmark = pytest.mark.e2e


def test_configured_host_key_says_who_asks(gate: Gate, gated: Site) -> None:
    key = gated.folder / "keys" / "web1.key"
    assert unlatch("host", "enroll", "--file", str(key), cwd=gated.folder).returncode == 0
    gate.add_host("web1", key.with_name("web1.key.pub"))
    config = gated.config.replace("unlock: {", "unlock: {host_key: keys/web1.key, ")
    with Proxy(gated.folder, config) as proxy:
        proxy.wait_for_event("asking")
        (request,) = gate.pending()
        checked = unlatch("check", "-c", proxy.config.name, cwd=gated.folder)

    assert request["identity"] == "file key web1"
    assert b"host key keys/web1.key: file " in checked.stdout


def test_host_key_that_is_none_is_found_by_check(gated: Site) -> None:
    (gated.folder / "web1.key").touch(mode=0o600)
    config = gated.folder / "check.yaml"
    text = gated.config.replace("unlock: {", "unlock: {host_key: web1.key, ")
    config.write_text(text.replace("@port@", "8443").replace("@health@", "9901"))
    checked = unlatch("check", "-c", config.name, cwd=gated.folder)

    assert checked.returncode == 21
    assert b"web1.key is no host key" in checked.stderr
