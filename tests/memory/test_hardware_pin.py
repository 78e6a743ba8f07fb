"""The PIN of a token stands in no process of a served proxy; the same scan finds it where a server keeps it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hardware_site import TOKENS, HardwareSite
from support.product import Proxy, eventually
from support.softhsm import MODULE, SoftHsm
from support.tangd import Tangd
from support.upstream import serving_ok

from unlatch.memguard import scan

pytestmark = [pytest.mark.memory, pytest.mark.e2e, pytest.mark.interop]

LONG_PIN = "Vw3-kT8qZ1-xL6mR9-cH2bN5-yD7jF4-pS0gAeUo"
HANDSHAKES = 200

ORDINARY = """
import sys, pkcs11
pin = sys.stdin.readline().strip()
session = pkcs11.lib(sys.argv[1]).get_token(token_label="prod").open(user_pin=pin)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HardwareSite, Proxy]]:
    """A proxy that has signed with its token, also after its custodian was killed and logged in anew."""
    if os.getuid() != 0:
        pytest.fail("reading the memory of non-dumpable processes needs root")
    folder = tmp_path_factory.mktemp("pin")
    with SoftHsm() as hsm, Tangd() as tangd, serving_ok() as upstream:
        hsm.add_token("prod", pin=LONG_PIN)
        to = ("--to", tangd.url, "--thp", tangd.thumbprint)
        site = HardwareSite(folder, hsm, *to, pin=LONG_PIN, token_pin=LONG_PIN)
        (folder / "pin").unlink()
        with site.serve(upstream) as proxy:
            proxy.wait_for_event("serving")
            work(site, proxy)
            os.kill(proxy.pid("custodian 0"), signal.SIGKILL)
            proxy.wait_for_event("custodian started", count=2)
            work(site, proxy)
            yield site, proxy


def work(site: HardwareSite, proxy: Proxy) -> None:
    eventually("an answer", lambda: site.answers(proxy, TOKENS[0]))
    for number in range(HANDSHAKES):
        assert site.answers(proxy, TOKENS[number % 2])


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in listed for one in family(int(child)))]


def looked_through(pid: int, mark: bytes) -> tuple[int, bool]:
    """Hits of the PIN, and whether the mark was met, which shows that the scan reads this process."""
    report = scan.scan(pid, scan.Index(scan.forms(LONG_PIN.encode())), marks={"mark": mark})
    return report.hits, bool(report.marks)


def test_no_process_of_the_proxy_holds_the_pin(worked: tuple[HardwareSite, Proxy]) -> None:
    site, proxy = worked
    pids = family(proxy.process.pid)
    roles = {
        int(entry["pid"]): name for name, entry in proxy.status()["processes"].items() if entry.get("pid")
    }
    marks = {"custodian 0": site.token.encode(), "guard": b"pkcs11:token=prod", "edge": b"p256.localhost"}

    found = {
        roles.get(pid, "supervisor"): looked_through(pid, marks.get(roles.get(pid, ""), b"pkcs11:token=prod"))
        for pid in pids
    }

    assert found == dict.fromkeys(("supervisor", "guard", "edge", "custodian 0"), (0, True))


def test_keys_of_the_token_stand_in_no_process_but_its_own(worked: tuple[HardwareSite, Proxy]) -> None:
    """SoftHSM signs in its custodian's memory; a token of hardware keeps that to itself."""
    site, proxy = worked
    custodian = proxy.pid("custodian 0")
    wanted = scan.Index([form for key in site.imported.values() for form in scan.private_key_forms(key)])
    found = {pid: scan.scan(pid, wanted).hits for pid in family(proxy.process.pid) if pid != custodian}

    assert len(found) == 3
    assert set(found.values()) == {0}


def test_no_unlock_process_is_left(worked: tuple[HardwareSite, Proxy]) -> None:
    _, proxy = worked
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family(proxy.process.pid)]

    assert not any(b"bootstrap.unlock" in command for command in commands)


def test_same_scan_finds_the_pin_where_a_server_logged_in_itself(worked: tuple[HardwareSite, Proxy]) -> None:
    site, _ = worked
    with subprocess.Popen(
        [sys.executable, "-c", ORDINARY, str(MODULE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=site.hsm.environment,
    ) as server:
        assert server.stdin
        assert server.stdout
        server.stdin.write(f"{LONG_PIN}\n".encode())
        server.stdin.flush()
        server.stdout.readline()
        hits, has_mark = looked_through(server.pid, b"token_label")
        server.stdin.close()

    assert hits > 0
    assert has_mark
