"""`unlatch doctor --find-key` finds the key of servers that hold one, none in ours, and says what it could not read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.opened_by_key import seal_keyed
from support.pki import Authority, new_key, pem
from support.product import UNLATCH, Proxy, Running, eventually, unlatch
from support.sealed_site import TOKEN, Site
from support.web_servers import haproxy, nginx

from unlatch.memguard.doctor import plant, processes
from unlatch.memguard.doctor.find_key import Sought
from unlatch.memguard.secret_forms import forms, private_key_forms

pytestmark = [pytest.mark.memory, pytest.mark.interop]

KINDS = ("p256", "rsa", "ed25519")
WORKED = 50
HOLDER = "import sys; held = sys.stdin.buffer.readline(); print('ready', flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.getuid() != 0:
        pytest.fail("reading the memory of other users' processes needs root")


@pytest.fixture
def key(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The file of a key with its chain beside it."""
    made = new_key(getattr(request, "param", "rsa"))
    (tmp_path / "site.key").write_bytes(pem(made))
    Authority(tmp_path).issue(tmp_path / "site.pem", ["localhost"], made.public_key())
    return tmp_path / "site.key"


@pytest.fixture
def holder() -> Iterator[int]:
    """A process that holds the token."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(TOKEN.encode() + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        yield process.pid
        process.kill()


def look(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = unlatch("doctor", *arguments, "--json", cwd=folder)
    assert done.returncode in (0, 20, 22), done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("key", KINDS, indirect=True)
def test_nginx_holds_copies_in_each_process(key: Path) -> None:
    with nginx(key.parent, key.with_suffix(".pem"), key) as pid:
        code, report = look(key.parent, "--find-key", "site.key", "--pid", str(pid), "--tree")

    assert code == 20
    assert report["control"]["missed"] == []
    assert len(report["processes"]) == 3, "a master and two workers"
    for process in report["processes"]:
        assert process["name"] == "nginx"
        assert process["control"]
        assert process["whole"] >= 1
        assert process["memory"]["heap"]["whole"] >= 1
        assert process["public_key"]


@pytest.mark.parametrize("key", KINDS, indirect=True)
def test_haproxy_holds_copies_in_its_worker(key: Path) -> None:
    with haproxy(key.parent, key.with_suffix(".pem"), key) as pid:
        code, report = look(key.parent, "--find-key", "site.key", "--pid", str(pid), "--tree")

    assert code == 20
    assert max(process["whole"] for process in report["processes"]) >= 1


def test_another_key_than_the_servers_is_not_found(key: Path, tmp_path: Path) -> None:
    (tmp_path / "other.key").write_bytes(pem(new_key("rsa")))
    with nginx(key.parent, key.with_suffix(".pem"), key) as pid:
        code, report = look(tmp_path, "--find-key", "other.key", "--pid", str(pid), "--tree")

    assert (code, report["copies"]) == (0, 0)
    assert all(process["control"] and process["bytes_read"] > 1 << 20 for process in report["processes"])
    assert not any(process["public_key"] for process in report["processes"])


def test_report_holds_no_piece_of_the_secret(key: Path) -> None:
    with nginx(key.parent, key.with_suffix(".pem"), key) as pid:
        shown = unlatch("doctor", "--find-key", "site.key", "--pid", str(pid), cwd=key.parent)
        as_json = unlatch("doctor", "--find-key", "site.key", "--pid", str(pid), "--json", cwd=key.parent)
    written = shown.stdout + shown.stderr + as_json.stdout + as_json.stderr

    assert b"heap" in shown.stdout
    assert not any(
        form.data[:12] in written for form in private_key_forms(key.read_bytes()) if form.kind != "PEM text"
    )


def test_supervisor_edge_and_egress_are_clean_at_work(site: Site, proxy: Proxy) -> None:
    for _ in range(WORKED):
        assert proxy.get(ca=site.authority.path)[0] == 200
        assert proxy.get("/psp/v1/x", ca=site.authority.path)[0] == 200
    (site.folder / "token.only").write_text(TOKEN + "\n")
    pids = [str(pid) for pid in (proxy.process.pid, proxy.pid("edge"), proxy.pid("egress"))]
    named = [value for pid in pids for value in ("--pid", pid)]

    for kind in KINDS:
        code, report = look(site.folder, "--find-key", f"{kind}.key", "--token-file", "token.only", *named)
        troubles = [(one["name"], one["trouble"]) for one in report["processes"] if one["trouble"]]

        assert report["copies"] == 0, report
        assert (code, troubles) == (0, [])


def test_guard_is_unknown_and_never_called_clean(site: Site, proxy: Proxy) -> None:
    """Its parts lie where the kernel lets nobody look: that is told, and the exit code says so."""
    code, report = look(site.folder, "--find-key", "rsa.key", "--pid", str(proxy.process.pid), "--tree")
    (guard,) = (one for one in report["processes"] if one["pid"] == proxy.pid("guard"))

    assert len(report["processes"]) == 4
    assert (code, report["copies"]) == (22, 0)
    assert set(guard["unreadable"]) == {"secret memory"}
    assert "secret memory could not be read" in guard["trouble"]


def test_token_is_found_with_or_without_the_editors_newline(tmp_path: Path, holder: int) -> None:
    for text in (TOKEN, TOKEN + "\n", TOKEN + "\r\n"):
        (tmp_path / "token").write_bytes(text.encode())
        code, report = look(tmp_path, "--token-file", "token", "--pid", str(holder))

        assert code == 20
        assert report["processes"][0]["whole"] >= 1


@pytest.mark.parametrize(
    ("options", "code"),
    [(("--fd", "psp=5"), 0), (("--secret", "psp"), 0), (("--insecure-env", "psp=TOKEN"), 20)],
)
def test_program_of_exec_holds_what_it_has_read(tmp_path: Path, options: tuple[str, ...], code: int) -> None:
    """Neither file nor descriptor puts a secret into a program's memory; a variable does."""
    keyed = seal_keyed(tmp_path, token=TOKEN)
    (tmp_path / "token").write_text(TOKEN)
    argv = [*UNLATCH, "exec", keyed.file, "--recovery-key", keyed.key, *options, "--", "sh", "-c"]
    with Running([*argv, "echo > ready; exec sleep 60"], folder=tmp_path, name="exec") as running:
        eventually("the program", lambda: True if (tmp_path / "ready").exists() else None)
        seen, report = look(tmp_path, "--token-file", "token", "--pid", str(running.process.pid))

    assert seen == code, report
    assert report["processes"][0]["name"] == "sleep"


def test_process_that_is_gone_could_not_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    code, report = look(tmp_path, "--token-file", "token", "--pid", str(process.pid))

    assert code == 22
    assert "not readable" in report["processes"][0]["trouble"]


def test_find_counts_even_where_another_process_could_not_be_read(tmp_path: Path, holder: int) -> None:
    (tmp_path / "token").write_text(TOKEN)
    code, report = look(tmp_path, "--token-file", "token", "--pid", str(holder), "--pid", "2")

    assert code == 20
    assert [bool(process["trouble"]) for process in report["processes"]] == [False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_control_finds_every_form_that_it_plants(kind: str) -> None:
    assert plant.missed(Sought.of(key=pem(new_key(kind)), token=TOKEN.encode()).decoys) == []


def test_control_says_what_a_scanner_misses() -> None:
    """A form that cannot be found, because it is uniform, stands for a scanner that overlooks one."""
    (good, *_), (form, *_) = forms(os.urandom(32)), forms(os.urandom(40), part="blind")
    blind = type(form)(form.part, form.kind, b"\0" * 40, ((0, 40),))

    assert plant.missed([good, blind]) == ["blind: as it is, anonymous", "blind: as it is, shared"]


def test_real_processes_have_names_and_parents(holder: int) -> None:
    assert processes.parents()[holder] == os.getpid()
    assert holder in processes.descendants([os.getpid()], processes.parents())
    assert processes.name_of(holder).startswith("python")
    assert not processes.is_over(holder)
