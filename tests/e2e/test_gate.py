"""The proxy behind our gate: a person approves, denies, is late; processes die while somebody waits."""

from __future__ import annotations

import os
import re
import signal
import ssl
from pathlib import Path

import pytest
from support.gate import Gate, code_in
from support.product import Proxy, eventually, unlatch
from support.sealed_site import KINDS, TOKEN, Site, host_of, seal_site

pytestmark = pytest.mark.e2e


def waiting_code(proxy: Proxy, *, count: int = 1) -> str:
    """The code on the console, once `count` requests were made."""
    proxy.wait_for_event("asking", count=count)
    lines = [line for line in proxy.text().splitlines() if line.startswith("unlatch: waiting:")]
    code = code_in(lines[-1])
    assert code
    return code


def test_approved_proxy_serves_every_key_and_the_token(gate: Gate, gated: Site) -> None:
    with Proxy(gated.folder, gated.config) as proxy:
        code = waiting_code(proxy)
        was_refused, state = proxy.is_refused(), proxy.command("status").returncode
        assert gate.approve(code=code).returncode == 0
        proxy.wait_for_event("serving")
        answers = {
            (kind, version): proxy.get(ca=gated.authority.path, host=host_of(kind), version=version)
            for kind in KINDS
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
        }
        token = proxy.get("/psp/v1/charge", ca=gated.authority.path)

    assert (was_refused, state) == (True, 12)
    assert set(answers.values()) == {(200, b"ok\n")}
    assert token == (200, b"psp")
    assert gated.psp.seen == [("/v1/charge", f"Bearer {TOKEN}")]
    assert gate.verify_audit().returncode == 0


def test_waiting_line_names_workload_code_card_and_hour(gate: Gate, gated: Site) -> None:
    with Proxy(gated.folder, gated.config) as proxy:
        proxy.wait_for_event("asking")
        log = proxy.text()
        status = proxy.status()

    line = re.compile(
        r"^unlatch: waiting: pay needs approval\. code ([A-Z]{4}-[A-Z]{4}), card "
        + re.escape(gate.url)
        + r"/r/\w+, expires \d\d:\d\d$",
        re.MULTILINE,
    )
    found = line.findall(log)
    assert len(found) == 1
    assert log.count(found[0]) == 1
    assert status["card"].startswith(f"{gate.url}/r/")
    assert found[0] not in str(status)


def test_denied_proxy_ends_with_10(gate: Gate, gated: Site) -> None:
    with Proxy(gated.folder, gated.config) as proxy:
        waiting_code(proxy)
        assert gate.deny().returncode == 0

        assert proxy.wait_for_end() == 10
        assert "denied" in proxy.text()


def test_wrong_code_opens_nothing_and_the_right_one_still_does(gate: Gate, gated: Site) -> None:
    with Proxy(gated.folder, gated.config) as proxy:
        code = waiting_code(proxy)
        wrong = gate.approve(code="BBBB-BBBB")
        assert wrong.returncode != 0
        assert proxy.is_refused()
        assert gate.approve(code=code.replace("-", "").lower()).returncode == 0
        proxy.wait_for_event("serving")


def test_undecided_start_ends_with_11_where_the_configuration_says_exit(gate: Gate, gated: Site) -> None:
    config = gated.config.replace("wait: 60s", "wait: 2s, on_timeout: exit")
    with Proxy(gated.folder, config) as proxy:
        assert proxy.wait_for_end() == 11


def test_expired_request_is_asked_again(tmp_path: Path, upstream: int) -> None:
    with Gate(tmp_path, policy=("--clients", "native", "--expires", "3s")) as gate:
        site = seal_site(tmp_path, gate.workload_url(), gate.thumbprint, upstream)
        with Proxy(site.folder, site.config.replace("wait: 60s", "wait: 1s")) as proxy:
            first = waiting_code(proxy)
            assert proxy.wait_for_event("failed")["code"] == 11
            gate.add_workload("pay", "--clients", "native", "--expires", "5m")
            second = waiting_code(proxy, count=2)
            assert gate.approve(code=first).returncode != 0
            assert gate.approve(code=second).returncode == 0
            proxy.wait_for_event("serving")
        site.psp.close()

    assert first != second


@pytest.mark.parametrize("victim", ["decider", "keyholder"])
def test_killed_gate_finds_the_request_again(gate: Gate, gated: Site, victim: str) -> None:
    with Proxy(gated.folder, gated.config) as proxy:
        code = waiting_code(proxy)
        assert gate.process
        if victim == "decider":
            gate.kill()
        else:
            os.kill(gate.keyholder_pid(), signal.SIGKILL)
            gate.process.wait_for_end()
        proxy.wait_for_event("change")
        gate.start()
        request = gate.wait_for_request()
        assert gate.approve(request, code=code).returncode == 0
        proxy.wait_for_event("serving")

        assert "unreachable" in proxy.text()


def test_killed_unlock_asks_again(gate: Gate, gated: Site) -> None:
    with Proxy(gated.folder, gated.config) as proxy:
        waiting_code(proxy)
        lost = gate.wait_for_request()
        os.kill(unlock_pid(proxy), signal.SIGKILL)
        proxy.wait_for_event("failed")
        code = waiting_code(proxy, count=2)
        assert proxy.is_refused()
        assert gate.approve(newer(gate, lost), code=code).returncode == 0
        proxy.wait_for_event("serving")


def test_killed_guard_while_asking_never_serves_without_a_new_request(gate: Gate, gated: Site) -> None:
    with Proxy(gated.folder, gated.config) as proxy:
        code = waiting_code(proxy)
        lost = gate.wait_for_request()
        os.kill(proxy.pid("guard"), signal.SIGKILL)
        assert gate.approve(lost, code=code).returncode == 0
        again = waiting_code(proxy, count=2)
        assert again != code
        assert proxy.is_refused()
        assert gate.approve(code=again).returncode == 0
        proxy.wait_for_event("serving")


def test_relocked_proxy_asks_a_person_again(gate: Gate, gated: Site) -> None:
    with Proxy(gated.folder, gated.config) as proxy:
        assert gate.approve(code=waiting_code(proxy)).returncode == 0
        proxy.wait_for_event("serving")
        assert proxy.command("relock").returncode == 0
        proxy.wait_for_event("relocked")
        assert proxy.command("unlock", "--reason", "after the drill").returncode == 0
        code = waiting_code(proxy, count=2)
        shown = gate.json(
            "show", gate.wait_for_request(), "--json", "--gate", gate.name, "--key", str(gate.key())
        )
        assert gate.deny().returncode == 0
        eventually("locked again", lambda: True if proxy.status()["state"] == "locked" else None)

        assert "after the drill" in str(shown)
        assert proxy.is_refused()
        assert code


def test_configuration_that_names_another_gate_is_refused(gate: Gate, gated: Site) -> None:
    config = gated.config.replace(gated.gate, "A" * 43)
    with Proxy(gated.folder, config) as proxy:
        assert proxy.wait_for_end() == 16
        assert "pins a gate that the configuration does not name" in proxy.text()
        assert gate.pending() == []


def test_swapped_bundle_is_refused(gate: Gate, gated: Site, tmp_path: Path) -> None:
    with Gate(tmp_path, name="thief") as other:
        swapped = unlatch(
            *("seal", "--to", other.workload_url(), "--thp", other.thumbprint, "--workload", "pay"),
            *("--key", "p256=p256.key", "--names", "localhost", "--out", "pay.jwe", "--force"),
            cwd=tmp_path,
        )
        assert swapped.returncode == 0, swapped.stderr
        with Proxy(gated.folder, gated.config) as proxy:
            assert proxy.wait_for_end() == 16
        assert other.pending() == []


def test_unreachable_gate_keeps_the_proxy_locked_and_trying(gate: Gate, gated: Site) -> None:
    gate.stop()
    with Proxy(gated.folder, gated.config) as proxy:
        failed = proxy.wait_for_event("failed")
        assert (failed["code"], proxy.is_refused()) == (15, True)
        gate.start()
        assert gate.approve(code=waiting_code(proxy)).returncode == 0
        proxy.wait_for_event("serving")


@pytest.mark.parametrize(("body", "code"), [("exit 10", 14), ("kill -9 $$", 14), ("exit 0", None)])
def test_hook_decides_before_anybody_is_asked(gate: Gate, gated: Site, body: str, code: int | None) -> None:
    hook = gated.folder / "hook"
    hook.write_text(f"#!/bin/sh\ncat > hook.json\n{body}\n")
    hook.chmod(0o755)
    config = gated.config.replace("wait: 60s", "wait: 60s, hook: [./hook]")
    with Proxy(gated.folder, config) as proxy:
        if code is None:
            assert gate.approve(code=waiting_code(proxy)).returncode == 0
            proxy.wait_for_event("serving")
        else:
            assert proxy.wait_for_end() == code
            assert gate.pending() == []


def test_host_with_a_key_leaves_one_request_whatever_dies(gate: Gate, gated: Site) -> None:
    """A killed asker's request would wait beside the next one; an enrolled host's newer request takes its place."""
    key = gated.folder / "host.key"
    assert unlatch("host", "enroll", "--file", str(key), cwd=gated.folder).returncode == 0
    gate.add_host("web1", key.with_name("host.key.pub"))
    with Proxy(gated.folder, gated.config, extra={"UNLATCH_HOST_KEY": str(key)}) as proxy:
        waiting_code(proxy)
        (first,) = gate.pending()
        os.kill(unlock_pid(proxy), signal.SIGKILL)
        code = waiting_code(proxy, count=2)
        (second,) = gate.pending()
        assert gate.approve(code=code).returncode == 0
        proxy.wait_for_event("serving")

    assert first["id"] != second["id"]
    assert (first["identity"], second["identity"]) == ("file key web1", "file key web1")
    assert gate.verify_audit().returncode == 0


def newer(gate: Gate, than: str) -> str:
    """The request that waits beside an older one, whose asker has died."""
    (request,) = (str(one["id"]) for one in gate.pending() if one["id"] != than)
    return request


def unlock_pid(proxy: Proxy) -> int:
    """The running unlock process."""
    children = Path(f"/proc/{proxy.process.pid}/task/{proxy.process.pid}/children").read_text().split()
    for pid in children:
        if b"unlatch.bootstrap.unlock" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return int(pid)
    raise LookupError("no unlock process runs")
