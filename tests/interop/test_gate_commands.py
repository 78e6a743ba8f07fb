"""Commands of administrators and operators: what they refuse, with which exit code, and what they hint at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from support.gate import Gate, Opening, code_in, make_ssh_key
from support.product import UNLATCH, Running, environment, eventually, free_port

from unlatch.bootstrap.approval import base64url

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A served gate."""
    with Gate(tmp_path_factory.mktemp("gate"), operators=("mara", "jo")) as running:
        yield running


@pytest.fixture
def stopped(tmp_path: Path) -> Gate:
    """A gate that is not served."""
    return Gate(tmp_path, workloads=())


def fails(gate: Gate, *arguments: str, code: int) -> str:
    done = gate.run(*arguments)

    assert done.returncode == code, done.stderr.decode()
    assert done.stdout == b""
    text = done.stderr.decode()
    assert "Traceback" not in text
    return text


def test_gate_is_founded_in_an_empty_folder_only(stopped: Gate) -> None:
    public = f"{stopped.key()}.pub"

    assert "not empty" in fails(
        stopped, "gate", "init", str(stopped.directory), "--admin-key", public, code=21
    )


@pytest.mark.parametrize("content", ["", "ssh-ed25519 AAAA", "hello", "-----BEGIN OPENSSH PRIVATE KEY-----"])
def test_gate_needs_a_real_key(stopped: Gate, content: str) -> None:
    path = stopped.folder / "none.pub"
    path.write_text(content)
    fails(
        stopped,
        "gate",
        "init",
        str(stopped.folder / "new"),
        "--admin-key",
        str(path),
        "--admin-name",
        "x",
        code=1,
    )

    assert not (stopped.folder / "new" / "keyholder").exists()


def test_gate_folder_is_its_owners_alone(stopped: Gate) -> None:
    for path in (stopped.directory, *stopped.directory.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (("--approver", "nobody"), "no operator is called"), (("--approver", "mara", "--quorum", "2"), "quorum of 2 of 1"),
        (("--approver", "mara", "--quorum", "0"), "quorum of 0"), (("--approver", "mara", "--hold", "2d"), "no duration"),
        (("--approver", "mara", "--hold", "2h"), "hold is 1 s to"), (("--approver", "mara", "--expires", "25h"), "expires is 1 s to"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["stopped", "served"])
def test_policy_that_makes_no_sense_is_refused(
    gate: Gate, stopped: Gate, policy: tuple[str, ...], words: str, where: str
) -> None:
    chosen = gate if where == "served" else stopped
    done = chosen.run("gate", "workload", "add", "other", *policy, *chosen._where())

    assert done.returncode != 0
    assert words in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize("name", ["PAY", "../x", "a b", "", "-x"])
def test_name_that_is_none_is_refused(stopped: Gate, name: str) -> None:
    done = stopped.run("gate", "workload", "add", "--approver", "mara", *stopped._where(), "--", name)

    assert done.returncode != 0
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize("where", ["--dir", "--gate"])
def test_operator_who_is_no_administrator_changes_nothing(gate: Gate, where: str) -> None:
    place = str(gate.directory) if where == "--dir" else gate.name
    text = fails(
        gate, "gate", "workload", "add", "other", "--approver", "jo", where, place, "--sign-with", str(gate.key("jo")), code=1
    )  # fmt: skip

    assert "no administrator" in text


def test_stranger_is_told_that_his_key_is_nobodys(gate: Gate) -> None:
    stranger = make_ssh_key(gate.folder / "ssh" / "stranger")

    assert "no operator's key" in fails(gate, "pending", "--gate", gate.name, "--key", str(stranger), code=1)


def test_administrator_changes_a_served_gate_from_elsewhere(gate: Gate) -> None:
    gate.must(
        "gate", "workload", "add", "remote", "--approver", "mara,jo", "--quorum", "2", "--gate", gate.name, "--sign-with", str(gate.key())
    )  # fmt: skip
    listed = gate.json(
        "gate", "workload", "list", "--json", "--gate", gate.name, "--sign-with", str(gate.key())
    )

    assert {one["name"]: one["quorum"] for one in listed["workloads"]}["remote"] == 2


def test_suspended_operator_signs_in_no_more(gate: Gate) -> None:
    gate.add_operator("kim")
    gate.must("pending", "--gate", gate.name, "--key", str(gate.key("kim")))
    gate.must("gate", "operator", "suspend", "kim", *gate._where())

    assert "suspended" in fails(gate, "pending", "--gate", gate.name, "--key", str(gate.key("kim")), code=1)
    listed = gate.json("gate", "operator", "list", "--json", "--dir", str(gate.directory))
    assert {one["name"]: one["suspended"] for one in listed["operators"]}["kim"] is True


def test_last_administrator_stays(gate: Gate) -> None:
    assert "last administrator" in fails(gate, "gate", "operator", "suspend", "mara", *gate._where(), code=1)


def test_trust_needs_the_right_thumbprint(gate: Gate) -> None:
    assert gate.thumbprint in fails(gate, "gate", "trust", gate.url, "--name", "x", code=2)
    assert "not signed by the pinned key" in fails(
        gate, "gate", "trust", gate.url, "--thp", "A" * 43, "--name", "x", code=16
    )
    assert not list(gate.folder.glob("config/unlatch/gates/x.json"))


def test_trust_on_first_use_says_so(gate: Gate) -> None:
    shown = gate.must("gate", "trust", gate.url, "--trust-on-first-use", "--name", "first").decode()
    (gate.folder / "config/unlatch/gates/first.json").unlink()

    assert "first use" in shown


def test_second_gate_on_a_folder_does_not_start(gate: Gate) -> None:
    with Running(
        [*UNLATCH, "gate", "serve", str(gate.directory), "--listen", "127.0.0.1:0", "--people", "127.0.0.1:0"],
        folder=gate.folder, name="second",
    ) as second:  # fmt: skip
        assert second.wait_for_end() == 21
        assert "in use" in second.text()


@pytest.mark.parametrize(
    "address", ["nonsense", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "256.0.0.1:1", "0.0.0.0:0"]
)
def test_address_that_is_none_is_refused(stopped: Gate, address: str) -> None:
    fails(
        stopped,
        "gate",
        "serve",
        str(stopped.directory),
        "--listen",
        address,
        "--people",
        "127.0.0.1:0",
        code=21,
    )


def test_folder_that_is_no_gate_is_refused(stopped: Gate) -> None:
    assert "no gate's folder" in fails(stopped, "gate", "serve", str(stopped.folder), code=21)
    assert "no gate's folder" in fails(stopped, "gate", "keys", str(stopped.folder), code=21)


def test_one_of_several_requests_must_be_named(gate: Gate) -> None:
    jwe = gate.seal_with_clevis(b"x")
    with Opening(gate, jwe) as one, Opening(gate, jwe) as other:
        one.code()
        other.code()
        text = fails(
            gate, "approve", "--code", "BBBB-BBBB", "--gate", gate.name, "--key", str(gate.key()), code=21
        )
        assert "2 requests wait" in text
        for request in [one["id"] for one in gate.pending()]:
            assert gate.deny(request.lower()).returncode == 0
        assert (one.end()[0], other.end()[0]) == (10, 10)
    assert "nothing waits" in fails(gate, "deny", "--gate", gate.name, "--key", str(gate.key()), code=21)


@pytest.mark.parametrize("request_id", ["AAAAAAAA", "../x", "x" * 500])
def test_request_that_is_not_there_is_named(gate: Gate, request_id: str) -> None:
    done = gate.run("show", request_id, "--gate", gate.name, "--key", str(gate.key()))

    assert done.returncode in (1, 21)
    assert b"Traceback" not in done.stderr


def test_code_without_a_terminal_is_wanted_as_an_option(gate: Gate) -> None:
    with Opening(gate, gate.seal_with_clevis(b"x")) as asker:
        asker.code()
        assert "--code" in fails(gate, "approve", "--gate", gate.name, "--key", str(gate.key()), code=2)
        assert "two groups" in fails(
            gate, "approve", "--code", "12", "--gate", gate.name, "--key", str(gate.key()), code=2
        )
        gate.deny()
        asker.end()


def test_gate_that_changed_its_key_under_a_context_is_not_believed(tmp_path: Path) -> None:
    """The context's file is all that the operator's machine believes: here another gate answers at its address."""
    (tmp_path / "other").mkdir()
    with Gate(tmp_path) as gate:
        gate.stop()
        other = Gate(tmp_path / "other", name="other")
        other._ports = gate._ports
        with other:
            done = gate.run("pending", "--gate", "gate", "--key", str(gate.key()))

            assert done.returncode != 0


def test_gate_serves_tls_and_its_asker_and_operator_verify_it(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    gate = Gate(tmp_path)
    trusting = environment(tmp_path) | {"REQUESTS_CA_BUNDLE": str(tmp_path / "ca.pem")}

    def run(*arguments: str, env: dict[str, str] = trusting) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*UNLATCH, *arguments], capture_output=True, cwd=tmp_path, env=env, timeout=60, check=False
        )

    port = free_port()
    pem = str(tmp_path / "server.pem")
    options = [
        "--listen",
        f"127.0.0.1:{port}",
        "--people",
        "127.0.0.1:0",
        "--tls-cert",
        pem,
        "--tls-key",
        pem,
    ]
    with Running(
        [*UNLATCH, "gate", "serve", str(gate.directory), *options], folder=tmp_path, name="tls"
    ) as server:
        server.wait_for_event("listening")
        url = f"https://localhost:{port}"
        trust = ("gate", "trust", url, "--thp", gate.thumbprint, "--name", "gate")
        assert run(*trust, env=environment(tmp_path)).returncode == 15
        assert run(*trust).returncode == 0
        (tmp_path / "key.pem").write_bytes(certificate.private_key_pem.bytes())
        sealed = run(
            "seal", "--to", "gate/pay", "--key", "tls=key.pem", "--names", "localhost", "--out", "pay.jwe"
        )
        assert sealed.returncode == 0, sealed.stderr
        with (tmp_path / "open.log").open("wb") as log:
            asker = subprocess.Popen(
                [*UNLATCH, "open", "pay.jwe"], stdout=subprocess.PIPE, stderr=log, cwd=tmp_path, env=trusting
            )
        try:
            code = eventually("a code", lambda: code_in((tmp_path / "open.log").read_text()))
            assert run("approve", "--code", code, "--key", str(gate.key())).returncode == 0
            stdout, _ = asker.communicate(timeout=30)
        finally:
            asker.kill()
            asker.wait()
    assert b"PRIVATE KEY" in stdout


def test_keys_are_printed_for_people_and_programs(stopped: Gate) -> None:
    text = stopped.must("gate", "keys", str(stopped.directory)).decode()

    assert f"signing key {stopped.thumbprint}" in text
    assert f"genesis     {stopped.genesis}" in text
    assert base64url.is_digest(stopped.genesis)


def test_commands_of_the_asker_load_nothing_of_the_gate(stopped: Gate) -> None:
    """The workload side starts in tens of milliseconds because it imports neither sqlalchemy nor starlette."""
    program = "import sys, unlatch.bootstrap.approval.client; print(json := [m for m in sys.modules if m.split('.')[0] in ('requests', 'sqlalchemy', 'starlette', 'uvicorn', 'pydantic')])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=stopped.folder
    )

    assert json.loads(done.stdout.replace("'", '"')) == []
