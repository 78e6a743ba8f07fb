"""A sealed key that stands in for a key in a token: only where it is declared, told loudly, and gone by itself."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.key_site import KeySite, key_uri
from support.product import Proxy, eventually
from support.softhsm import SoftHsm
from support.tangd import Tangd

pytestmark = [pytest.mark.e2e, pytest.mark.interop]
HOST = "p256.localhost"


@pytest.fixture
def key_site(tmp_path: Path, tangd: Tangd) -> Iterator[KeySite]:
    """One key in the token and one sealed for the same name, not served yet."""
    with SoftHsm() as tokens:
        tokens.add_token("prod")
        site = KeySite(tmp_path, tokens, tangd)
        site.add_sealed("soft", "ed25519", HOST)
        site.certificates = [site.add_hardware("p256", "p256", HOST)]
        site.seal("--hardware-key", "site=p256.pem")
        yield site


def declare(site: KeySite) -> None:
    site.certificates[0] += ', fallback: {chain: soft.pem, key: "sealed:soft"}'


def fallback_of(proxy: Proxy) -> dict[str, object]:
    (key,) = (one for one in proxy.status()["keys"] if one["name"] == key_uri("p256"))
    found: dict[str, object] = key["fallback"]
    return found


def test_stopped_custodian_loses_no_handshake_and_is_told(key_site: KeySite, upstream: int) -> None:
    declare(key_site)
    with key_site.serve(upstream) as proxy:
        proxy.wait_for_event("serving")
        eventually("the hardware", lambda: None if fallback_of(proxy)["active"] else True)
        before = (key_site.answers(proxy, HOST), fallback_of(proxy)["signatures"])
        # It hangs: neither its socket nor its process ends.
        stopped = proxy.pid("custodian 0")
        os.kill(stopped, signal.SIGSTOP)
        while_stopped = [key_site.answers(proxy, HOST) for _ in range(6)]
        event = proxy.wait_for_event("fallback in use")
        shown = proxy.command("status")
        os.kill(stopped, signal.SIGCONT)

        def is_back() -> bool | None:
            key_site.answers(proxy, HOST)
            return None if fallback_of(proxy)["active"] else True

        eventually("the hardware's return", is_back)
        proxy.wait_for_event("fallback over")
        signed = fallback_of(proxy)["signatures"]
        after = [key_site.answers(proxy, HOST) for _ in range(3)]
        unchanged = fallback_of(proxy)["signatures"] == signed

    assert before == (True, 0)
    assert while_stopped == [True] * 6
    assert (event["key"], event["fallback"]) == (key_uri("p256"), "sealed:soft")
    assert shown.returncode == 24
    assert b"sealed:soft signs in its place" in shown.stdout
    assert after == [True] * 3
    assert unchanged


def test_killed_custodian_loses_no_handshake(key_site: KeySite, upstream: int) -> None:
    declare(key_site)
    with key_site.serve(upstream) as proxy:
        proxy.wait_for_event("serving")
        eventually("the hardware", lambda: None if fallback_of(proxy)["active"] else True)
        for count in (2, 3):
            os.kill(proxy.pid("custodian 0"), signal.SIGKILL)
            served = [key_site.answers(proxy, HOST) for _ in range(5)]
            proxy.wait_for_event("custodian started", count=count)
            assert served == [True] * 5


def test_without_declaration_the_broken_key_only_fails(key_site: KeySite, upstream: int) -> None:
    with key_site.serve(upstream) as proxy:
        proxy.wait_for_event("serving")
        eventually("the first answer", lambda: key_site.answers(proxy, HOST))
        stopped = proxy.pid("custodian 0")
        os.kill(stopped, signal.SIGSTOP)
        broken = key_site.answers(proxy, HOST)
        weaker = proxy.status()["weaker"]
        os.kill(stopped, signal.SIGCONT)
        eventually("the key's return", lambda: key_site.answers(proxy, HOST))

    assert broken is None
    assert not any("in its place" in one for one in weaker)


def check(site: KeySite, certificates: list[str], name: str) -> subprocess.CompletedProcess[bytes]:
    """The proxy's first words on a configuration."""
    site.certificates = certificates
    with site.serve(1) as proxy:
        proxy.wait_for_end()
        return subprocess.CompletedProcess([], proxy.process.returncode, b"", proxy.text().encode())


def test_fallback_for_fewer_names_is_refused(key_site: KeySite) -> None:
    key_site.add_sealed("other", "ed25519", "localhost")
    entry = f'{key_site.certificates[0]}, fallback: {{chain: other.pem, key: "sealed:other"}}'
    done = check(key_site, [entry], "narrow")

    assert done.returncode == 21
    assert b"the fallback's certificate is not for p256.localhost" in done.stderr


def test_wider_certificate_of_a_key_in_hardware_is_refused(key_site: KeySite, upstream: int) -> None:
    from cryptography import x509

    leaf = x509.load_pem_x509_certificate((key_site.folder / "p256.pem").read_bytes())
    key = leaf.public_key()
    key_site.authority.issue(key_site.folder / "p256.pem", [HOST, "admin.example"], key)  # type: ignore[arg-type]
    done = check(key_site, key_site.certificates, "wide")

    assert done.returncode == 21
    assert b'certificate is for \\"admin.example\\", key is sealed for' in done.stderr
