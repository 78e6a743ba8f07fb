"""Hosts that say who they are: keys made by the commands, in a software TPM and in files, at a real gate."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.gate import Gate, Opening
from support.host_keys import HostKeyInMemory
from support.product import UNLATCH, environment, eventually
from support.swtpm import Swtpm

from unlatch.bootstrap import jose
from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.receipt import Receipt
from unlatch.bootstrap.identity.proof import Asking, Identity, PublicLine
from unlatch.memguard._native import exchange_key_generate

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A served gate with two workloads."""
    made = Gate(tmp_path_factory.mktemp("gate"), workloads=("pay", "other"))
    with made as running:
        yield running


@pytest.fixture(scope="module")
def tpm() -> Iterator[Swtpm]:
    """A software TPM."""
    with Swtpm() as running:
        yield running


@pytest.fixture
def own_gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate for one test, which may end it or fill it."""
    with Gate(tmp_path) as running:
        yield running


def enroll(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`unlatch host enroll` on a host."""
    return subprocess.run(
        [*UNLATCH, "host", "enroll", *arguments],
        capture_output=True, check=False, timeout=60, text=True, cwd=folder, env=environment(folder) | variables,
    )  # fmt: skip


class FileHost:
    """A host with a key in a file, made by the command."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.key = name, folder / f"{name}.key"
        done = enroll(folder, "--file", str(self.key))
        assert done.returncode == 0, done.stderr
        self.public = self.key.with_name(f"{name}.key.pub")
        self.thumbprint = PublicLine.parse(done.stdout).key.thumbprint

    @property
    def variables(self) -> dict[str, str]:
        return {"UNLATCH_HOST_KEY": str(self.key)}


@pytest.fixture(scope="module")
def web1(gate: Gate) -> FileHost:
    """An enrolled host."""
    made = FileHost(gate.folder, "web1")
    gate.add_host("web1", made.public)
    return made


@pytest.fixture
def jwe(gate: Gate) -> bytes:
    """A file that Debian's clevis sealed to `pay`."""
    return gate.seal_with_clevis(b"secret")


def shown(gate: Gate, request: str) -> dict[str, Any]:
    return gate.json("show", request, "--json", "--gate", gate.name, "--key", str(gate.key()))


def opens(gate: Gate, asker: Opening) -> str:
    """Approve what asks, and give how `unlatch show` names it."""
    code, request = asker.code(), gate.wait_for_request()
    identity = str(shown(gate, request)["identity"])
    assert gate.approve(request, code=code).returncode == 0
    assert asker.end() == (0, b"secret")
    return identity


def card(gate: Gate, request: str) -> str:
    address = urlsplit(gate.people)
    with closing(http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=20)) as connection:
        connection.request("GET", f"/r/{request}")
        return connection.getresponse().read().decode()


def test_key_in_the_tpm_is_enrolled_shown_and_verified(
    gate: Gate, tpm: Swtpm, jwe: bytes, tmp_path: Path
) -> None:
    done = enroll(
        tmp_path, "--tpm", "--out", "host.key", "--name", "tpm1", "--gate", "home", UNLATCH_TCTI=tpm.tcti
    )
    assert done.returncode == 0, done.stderr
    assert "unlatch gate host add tpm1 host.key.pub --gate home" in done.stderr
    assert b"BEGIN TSS2 PRIVATE KEY" in (tmp_path / "host.key").read_bytes()
    said = gate.add_host("tpm1", tmp_path / "host.key.pub")
    assert said.split()[-1] in done.stderr  # the thumbprint that two people compare

    variables = {"UNLATCH_HOST_KEY": str(tmp_path / "host.key"), "UNLATCH_TCTI": tpm.tcti}
    with Opening(gate, jwe, variables=variables) as asker:
        asker.code()
        request = gate.wait_for_request()
        assert "TPM key tpm1" in card(gate, request)
        assert [one["identity"] for one in gate.pending()] == ["TPM key tpm1"]
        assert opens(gate, asker) == "TPM key tpm1"
    assert tpm.leaks() == []
    assert gate.verify_audit().returncode == 0


def test_key_file_of_another_tpm_says_nothing(gate: Gate, tpm: Swtpm, jwe: bytes, tmp_path: Path) -> None:
    assert enroll(tmp_path, "--tpm", "--out", "host.key", UNLATCH_TCTI=tpm.tcti).returncode == 0
    gate.add_host("stolen", tmp_path / "host.key.pub")
    with Swtpm() as other:
        variables = {"UNLATCH_HOST_KEY": str(tmp_path / "host.key"), "UNLATCH_TCTI": other.tcti}
        with Opening(gate, jwe, variables=variables) as asker:
            assert opens(gate, asker) == "none"
            assert "asking without the host key" in asker.text()


def test_tpm_that_is_gone_keeps_nobody_from_asking(gate: Gate, jwe: bytes, tmp_path: Path) -> None:
    with Swtpm() as tpm:
        assert enroll(tmp_path, "--out", "host.key", UNLATCH_TCTI=tpm.tcti).returncode == 0
        variables = {"UNLATCH_HOST_KEY": str(tmp_path / "host.key"), "UNLATCH_TCTI": tpm.tcti}
    with Opening(gate, jwe, variables=variables) as asker:
        assert opens(gate, asker) == "none"


def test_key_in_a_file_is_shown_as_copyable(gate: Gate, web1: FileHost, jwe: bytes) -> None:
    with Opening(gate, jwe, variables=web1.variables) as asker:
        asker.code()
        assert "file key web1 (copyable)" in card(gate, gate.wait_for_request())
        assert opens(gate, asker) == "file key web1"


def test_key_that_nobody_enrolled_is_new(gate: Gate, jwe: bytes, tmp_path: Path) -> None:
    stranger = FileHost(tmp_path, "stranger")
    with Opening(gate, jwe, variables=stranger.variables) as asker:
        asker.code()
        assert f"new: nobody enrolled the key {stranger.thumbprint}" in card(gate, gate.wait_for_request())
        assert opens(gate, asker) == "new"


def test_asker_without_a_key_is_none(gate: Gate, jwe: bytes) -> None:
    with Opening(gate, jwe) as asker:
        assert opens(gate, asker) == "none"


def test_key_that_others_may_read_is_not_used(gate: Gate, jwe: bytes, tmp_path: Path) -> None:
    host = FileHost(tmp_path, "open")
    host.key.chmod(0o644)
    with Opening(gate, jwe, variables=host.variables) as asker:
        assert opens(gate, asker) == "none"
        assert "others may read the host key" in asker.text()


def test_suspended_host_is_refused_with_13(gate: Gate, jwe: bytes, tmp_path: Path) -> None:
    host = FileHost(tmp_path, "gone")
    gate.add_host("gone", host.public)
    gate.suspend_host("gone")
    with Opening(gate, jwe, variables=host.variables) as asker:
        assert asker.end() == (13, b"")
    assert gate.pending() == []
    facts = gate.json("gate", "host", "list", "--dir", str(gate.directory), "--json")["hosts"]
    assert [one["is_suspended"] for one in facts if one["name"] == "gone"] == [True]


def test_request_of_a_host_that_is_suspended_meanwhile_is_not_approved(
    gate: Gate, jwe: bytes, tmp_path: Path
) -> None:
    host = FileHost(tmp_path, "late")
    gate.add_host("late", host.public)
    with Opening(gate, jwe, variables=host.variables) as asker:
        code, request = asker.code(), gate.wait_for_request()
        gate.suspend_host("late")
        assert asker.end() == (13, b"")
        assert "counts no more" in asker.text()
        assert gate.approve(request, code=code).returncode != 0
    assert gate.pending() == []
    assert gate.verify_audit().returncode == 0


def test_newer_request_of_the_same_host_supersedes_the_older(own_gate: Gate) -> None:
    jwe = own_gate.seal_with_clevis(b"secret")
    host = FileHost(own_gate.folder, "web1")
    own_gate.add_host("web1", host.public)
    with Opening(own_gate, jwe, variables=host.variables) as older:
        older.code()
        first = own_gate.wait_for_request()
        with Opening(own_gate, jwe, variables=host.variables) as newer:
            newer.code()
            assert older.end() == (11, b"")
            assert "superseded" in older.text()
            assert [one["id"] for one in own_gate.pending()] != [first]
            assert opens(own_gate, newer) == "file key web1"
    assert own_gate.verify_audit().returncode == 0


def test_requests_of_strangers_and_of_the_nameless_supersede_nothing(own_gate: Gate) -> None:
    jwe = own_gate.seal_with_clevis(b"secret")
    stranger, host = FileHost(own_gate.folder, "stranger"), FileHost(own_gate.folder, "web1")
    own_gate.add_host("web1", host.public)
    with Opening(own_gate, jwe, variables=host.variables) as named:
        named.code()
        for variables in (stranger.variables, stranger.variables, {}, {}):
            with Opening(own_gate, jwe, "--no-wait", variables=variables) as asker:
                assert asker.end()[0] == 12
        assert sorted(one["identity"] for one in own_gate.pending()) == [
            "file key web1", "new", "new", "none", "none",
        ]  # fmt: skip


def test_host_asks_for_two_workloads_at_once(gate: Gate, web1: FileHost, jwe: bytes) -> None:
    other = gate.seal_with_clevis(b"secret", workload="other")
    with (
        Opening(gate, jwe, variables=web1.variables) as one,
        Opening(gate, other, variables=web1.variables) as two,
    ):
        one.code(), two.code()
        assert {item["workload"] for item in gate.pending()} == {"pay", "other"}
        for item in gate.pending():
            assert gate.deny(item["id"]).returncode == 0
        assert (one.end()[0], two.end()[0]) == (10, 10)


def test_request_survives_kill_9_with_its_identity(own_gate: Gate) -> None:
    jwe = own_gate.seal_with_clevis(b"secret")
    host = FileHost(own_gate.folder, "web1")
    own_gate.add_host("web1", host.public)
    with Opening(own_gate, jwe, variables=host.variables) as asker:
        code, request = asker.code(), own_gate.wait_for_request()
        own_gate.kill()
        own_gate.start()
        assert shown(own_gate, request)["host_key"] == host.thumbprint
        assert own_gate.approve(request, code=code).returncode == 0
        assert asker.end() == (0, b"secret")
    assert own_gate.verify_audit().returncode == 0


class Machine:
    """A host's HTTP, where each header can be wrong."""

    def __init__(self, gate: Gate, key: HostKeyInMemory, workload: str = "pay") -> None:
        self.gate, self.key, self.workload = gate, key, workload
        self.kid = gate.json("gate", "keys", str(gate.directory), "--json")["workloads"][workload]
        self.claims = Claims(workload=workload, host="h1").encode()
        self.body = exchange_key_generate("P-521")[1]
        point = jose.read_json(self.body)
        assert isinstance(point, dict)
        self.asking = Asking(workload, self.kid, jose.thumbprint(point), self.claims)

    def enrol(self, name: str) -> None:
        path = self.gate.folder / f"{name}.pub"
        path.write_text(f"{PublicLine('file', self.key.public)}\n")
        self.gate.add_host(name, path)

    def post(self, identity: str | None) -> tuple[int, dict[str, str], bytes]:
        headers = {
            "Accept": "application/unlatch-receipt+jwt", "Content-Type": "application/jwk+json",
            "Unlatch-Claims": base64url.encode(self.claims),
        }  # fmt: skip
        if identity is not None:
            headers["Unlatch-Identity"] = identity
        port = urlsplit(self.gate.url).port or 0
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request("POST", f"/s/{self.workload}/rec/{self.kid}", body=self.body, headers=headers)
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()

    def challenge(self) -> str:
        status, headers, body = self.post(str(self.key.public))
        assert (status, json.loads(body)) == (401, {"error": "challenge"})
        assert headers["www-authenticate"] == "Unlatch-Identity"
        return headers["unlatch-challenge"]

    def prove(self) -> str:
        return self.key.prove(self.asking, self.challenge())


def receipt_of(body: bytes) -> Receipt:
    return Receipt.parse(base64url.decode(body.split(b".")[1].decode()))


def test_challenge_costs_the_gate_nothing(own_gate: Gate) -> None:
    machine = Machine(own_gate, HostKeyInMemory())
    before = own_gate.json("audit", "verify", "--genesis", own_gate.genesis, "--json", "--gate", own_gate.name, "--key", str(own_gate.key()))  # fmt: skip
    challenges = {machine.challenge() for _ in range(50)}
    after = own_gate.json("audit", "verify", "--genesis", own_gate.genesis, "--json", "--gate", own_gate.name, "--key", str(own_gate.key()))  # fmt: skip

    assert own_gate.pending() == []
    assert before["entries"] == after["entries"]
    assert len(challenges) <= 3  # one for everybody, for ten seconds


@pytest.mark.parametrize("what", ["signature", "point", "key", "garbage", "empty"])
def test_wrong_proof_is_refused_and_never_becomes_a_request(gate: Gate, what: str) -> None:
    machine = Machine(gate, HostKeyInMemory())
    right = machine.prove()
    key, challenge, signature = right.split(".")
    other = HostKeyInMemory()
    wrong = {
        "signature": f"{key}.{challenge}.{'A' * 86}",
        "point": Machine(gate, machine.key).prove(),
        "key": f"{other.public}.{challenge}.{signature}",
        "garbage": "garbage",
        "empty": "",
    }[what]
    status, _, body = machine.post(wrong)

    assert status == 403
    assert json.loads(body)["error"] == "policy"
    assert gate.pending() == []


def test_stale_or_foreign_challenge_is_answered_with_a_new_one(gate: Gate) -> None:
    machine = Machine(gate, HostKeyInMemory())
    current = machine.challenge()
    for challenge in (
        base64url.encode(bytes(72)),
        base64url.encode(base64url.decode(current)[:8] + bytes(64)),
    ):
        status, headers, _ = machine.post(machine.key.prove(machine.asking, challenge))
        assert status == 401
        assert len(headers["unlatch-challenge"]) == 96
    assert gate.pending() == []


def test_older_client_is_served_as_ever(gate: Gate) -> None:
    status, headers, body = Machine(gate, HostKeyInMemory()).post(None)

    assert status == 202
    assert "unlatch-challenge" not in headers
    assert b"identity" not in base64url.decode(body.split(b".")[1].decode())
    gate.deny()


def test_same_point_finds_its_request_with_a_newer_proof(own_gate: Gate) -> None:
    machine = Machine(own_gate, HostKeyInMemory())
    machine.enrol("web1")
    first = machine.post(machine.prove())
    second = machine.post(machine.prove())

    assert (first[0], second[0]) == (202, 202)
    assert first[2] == second[2]
    assert len(own_gate.pending()) == 1


def test_strangers_take_neither_places_nor_turns_of_hosts(own_gate: Gate) -> None:
    """Eight strangers fill their address, and then a flood spends all that the address may ask."""
    for _ in range(8):
        assert Machine(own_gate, HostKeyInMemory()).post(None)[0] == 202
    assert Machine(own_gate, HostKeyInMemory()).post(None)[0] == 429
    host = Machine(own_gate, HostKeyInMemory())
    host.enrol("web1")
    assert host.post(host.prove())[0] == 202

    later, stranger = Machine(own_gate, host.key), Machine(own_gate, HostKeyInMemory())
    eventually("a flood that is stopped", lambda: True if stranger.post(None)[0] == 429 and stranger.post("x")[0] == 429 else None)  # fmt: skip
    status, headers, _ = later.post(str(later.key.public))
    challenge = headers["unlatch-challenge"]
    assert later.post(later.key.prove(later.asking, challenge))[0] == 202
    assert stranger.post(stranger.key.prove(stranger.asking, challenge))[0] == 429
    assert status in (401, 429)


def test_identity_in_the_receipt_is_keyholder_s_word(own_gate: Gate) -> None:
    machine = Machine(own_gate, HostKeyInMemory())
    machine.enrol("web1")
    receipt = receipt_of(machine.post(machine.prove())[2])

    assert Identity.parse(receipt.identity or "") == Identity(machine.key.public.thumbprint, "web1", "file")


def test_commands_refuse_what_is_no_host_key(gate: Gate) -> None:
    path = gate.folder / "none.pub"
    for text in ("", "ssh-ed25519 AAAA", "unlatch-host-v1 tpm AAAA"):
        path.write_text(text)
        done = gate.run("gate", "host", "add", "web9", str(path), "--dir", str(gate.directory), "--sign-with", str(gate.key()))  # fmt: skip
        assert done.returncode == 21
        assert b"no host's public key" in done.stderr


def test_same_key_is_enrolled_once(gate: Gate, web1: FileHost) -> None:
    done = gate.run("gate", "host", "add", "web9", str(web1.public), "--dir", str(gate.directory), "--sign-with", str(gate.key()))  # fmt: skip
    assert done.returncode == 1
    assert b"enrolled before" in done.stderr
