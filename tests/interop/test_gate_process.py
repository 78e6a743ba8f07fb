"""A whole gate, asked by `unlatch open` and by Debian's clevis: every end, its exit code, and what dies in between."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gate import ClevisDecrypt, Gate, Opening
from support.product import eventually

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate with two operators: `pay` opens by one, `two` by both, `short` ends after two seconds, `native` refuses clevis."""
    made = Gate(tmp_path_factory.mktemp("gate"), operators=("mara", "jo"))
    made.add_workload("two", "--quorum", "2", "--clients", "both")
    made.add_workload("short", "--clients", "both", "--hold", "2s", "--expires", "2s")
    made.add_workload("native", "--clients", "native")
    with made as running:
        yield running


@pytest.fixture
def own_gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate for one test, which may end it."""
    with Gate(tmp_path) as running:
        yield running


@pytest.fixture
def jwe(gate: Gate) -> bytes:
    """A file that Debian's clevis sealed to `pay`."""
    return gate.seal_with_clevis(b"secret")


def test_approved_request_opens_and_leaves_a_log_that_verifies(gate: Gate, jwe: bytes) -> None:
    with Opening(gate, jwe) as asker:
        assert gate.approve(code=asker.code()).returncode == 0
        assert asker.end() == (0, b"secret")
    assert gate.verify_audit().returncode == 0


def test_denied_request_ends_with_10(gate: Gate, jwe: bytes) -> None:
    with Opening(gate, jwe) as asker:
        asker.code()
        assert gate.deny(operator="jo").returncode == 0
        assert asker.end() == (10, b"")
        assert "denied by jo" in asker.text()


def test_undecided_request_ends_with_11(gate: Gate) -> None:
    with Opening(gate, gate.seal_with_clevis(b"secret", workload="short")) as asker:
        assert asker.end() == (11, b"")


def test_impatient_asker_ends_with_11(gate: Gate, jwe: bytes) -> None:
    with Opening(gate, jwe, "--timeout", "1") as asker:
        assert asker.end()[0] == 11
    gate.deny()


def test_asker_that_does_not_wait_ends_with_12(gate: Gate, jwe: bytes) -> None:
    with Opening(gate, jwe, "--no-wait") as asker:
        assert asker.end()[0] == 12
    gate.deny()


def test_wrong_code_opens_nothing_and_five_end_the_request_with_13(gate: Gate, jwe: bytes) -> None:
    with Opening(gate, jwe) as asker:
        code, request = asker.code(), gate.wait_for_request()
        for _ in range(5):
            wrong = gate.approve(request, code="BBBB-BBBB")
            assert wrong.returncode == 1
            assert b"not the code" in wrong.stderr
        assert gate.approve(request, code=code).returncode != 0
        assert asker.end() == (13, b"")
    assert gate.verify_audit().returncode == 0


def test_gate_that_is_not_there_ends_with_15(gate: Gate, own_gate: Gate, jwe: bytes) -> None:
    sealed = own_gate.seal_with_clevis(b"secret")
    own_gate.stop()
    with Opening(own_gate, sealed) as asker:
        assert asker.end()[0] == 15


def test_another_gate_at_the_same_address_ends_with_16_or_17(own_gate: Gate, tmp_path: Path) -> None:
    """A stranger's gate has another exchange key, so it is the key that is missed; it is never believed."""
    sealed = own_gate.seal_with_clevis(b"secret")
    own_gate.stop()
    (tmp_path / "other").mkdir()
    other = Gate(tmp_path / "other", name="other")
    other._ports = own_gate._ports
    with other, Opening(own_gate, sealed) as asker:
        assert asker.end()[0] in (16, 17)
        assert other.pending() == []


def test_unknown_key_ends_with_17(gate: Gate) -> None:
    sealed = gate.seal_with_clevis(b"secret", workload="two")
    head, _, rest = sealed.partition(b".")
    header = json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
    header["clevis"]["tang"]["url"] = gate.workload_url("pay")
    changed = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=")
    with Opening(gate, changed + b"." + rest) as asker:
        assert asker.end()[0] == 17
    assert gate.pending() == []


def test_request_that_policy_does_not_allow_ends_with_13(own_gate: Gate) -> None:
    own_gate.add_workload("stock", "--clients", "stock")
    with Opening(own_gate, own_gate.seal_with_clevis(b"secret", workload="stock")) as asker:
        assert asker.end()[0] == 13
    assert own_gate.pending() == []


def test_flood_ends_with_19_and_stops_before_the_database(own_gate: Gate) -> None:
    sealed = own_gate.seal_with_clevis(b"secret")
    for _ in range(8):
        with Opening(own_gate, sealed, "--no-wait") as asker:
            assert asker.end()[0] == 12
    with Opening(own_gate, sealed, "--timeout", "2") as asker:
        assert asker.end()[0] == 19
    assert len(own_gate.pending()) == 8


def test_clevis_is_refused_where_policy_wants_a_code(gate: Gate, tmp_path: Path) -> None:
    with ClevisDecrypt(gate.seal_with_clevis(b"secret", workload="native"), home=tmp_path) as asker:
        assert asker.end() == (1, b"")
    assert gate.pending() == []


def test_clevis_ends_with_its_hold_time(gate: Gate, tmp_path: Path) -> None:
    with ClevisDecrypt(gate.seal_with_clevis(b"secret", workload="short"), home=tmp_path) as asker:
        gate.wait_for_request("short")
        assert asker.end() == (1, b"")
    eventually("no request", lambda: True if gate.pending() == [] else None)


def test_clevis_that_is_interrupted_gives_its_request_up(gate: Gate, jwe: bytes, tmp_path: Path) -> None:
    with ClevisDecrypt(jwe, home=tmp_path):
        request = gate.wait_for_request()
    eventually("no request", lambda: True if gate.pending() == [] else None)
    assert gate.approve(request, code="pay").returncode != 0


def test_clevis_is_approved_by_the_workloads_name_only(gate: Gate, jwe: bytes, tmp_path: Path) -> None:
    with ClevisDecrypt(jwe, home=tmp_path) as asker:
        request = gate.wait_for_request()
        assert gate.approve(request, code="BBBB-BBBB").returncode == 2
        assert gate.approve(request, code="pay").returncode == 0
        assert asker.end() == (0, b"secret")


def test_clevis_trusts_only_the_pinned_key(gate: Gate, tmp_path: Path) -> None:
    config = json.dumps({"url": gate.workload_url(), "thp": "A" * 43})
    done = subprocess.run(
        ["clevis", "encrypt", "tang", config], input=b"x", capture_output=True, check=False, timeout=30
    )

    assert done.returncode == 1
    assert done.stdout == b""


def test_quorum_needs_two_people(gate: Gate) -> None:
    with Opening(gate, gate.seal_with_clevis(b"secret", workload="two")) as asker:
        code, request = asker.code(), gate.wait_for_request("two")
        for _ in range(2):
            assert b"1 more needed" in gate.approve(request, code=code, operator="mara").stdout
        asker.wait_for("1 of 2 approved (mara)")
        assert b"it opens" in gate.approve(request, code=code, operator="jo").stdout
        assert asker.end() == (0, b"secret")


def test_denial_beats_an_approval_that_was_there_first(gate: Gate) -> None:
    with Opening(gate, gate.seal_with_clevis(b"secret", workload="two")) as asker:
        code, request = asker.code(), gate.wait_for_request("two")
        gate.approve(request, code=code, operator="mara")
        assert gate.deny(request, operator="jo").returncode == 0
        assert gate.approve(request, code=code, operator="jo").returncode != 0
        assert asker.end() == (10, b"")


def test_race_of_two_approvals_and_a_denial_ends_in_one_state(gate: Gate) -> None:
    for _ in range(3):
        with Opening(gate, gate.seal_with_clevis(b"secret", workload="two")) as asker:
            code, request = asker.code(), gate.wait_for_request("two")
            race = [
                threading.Thread(
                    target=gate.approve, args=(request,), kwargs={"code": code, "operator": "mara"}
                ),
                threading.Thread(
                    target=gate.approve, args=(request,), kwargs={"code": code, "operator": "jo"}
                ),
                threading.Thread(target=gate.deny, args=(request,), kwargs={"operator": "jo"}),
            ]
            for one in race:
                one.start()
            for one in race:
                one.join()

            assert asker.end() in [(0, b"secret"), (10, b"")]
    assert gate.verify_audit().returncode == 0


def test_decider_killed_while_somebody_waits_finds_the_request_again(own_gate: Gate) -> None:
    with Opening(own_gate, own_gate.seal_with_clevis(b"secret")) as asker:
        code, request = asker.code(), own_gate.wait_for_request()
        own_gate.kill()
        asker.wait_for("request kept")
        own_gate.start()
        assert own_gate.approve(request, code=code).returncode == 0
        assert asker.end() == (0, b"secret")
    assert own_gate.verify_audit().returncode == 0


def test_decider_killed_after_the_approval_still_answers_once(own_gate: Gate) -> None:
    """The asker is stopped meanwhile, so that the approval is on disk and the answer is not out."""
    with Opening(own_gate, own_gate.seal_with_clevis(b"secret")) as asker:
        code, request = asker.code(), own_gate.wait_for_request()
        os.kill(asker._process.pid, signal.SIGSTOP)
        assert own_gate.process
        own_gate.approve(request, code=code)
        own_gate.kill()
        own_gate.start()
        os.kill(asker._process.pid, signal.SIGCONT)
        assert asker.end() in [
            (0, b"secret"),
            (11, b""),
        ]  # 11 where the answer had left towards the stopped asker
    assert own_gate.verify_audit().returncode == 0


def test_keyholder_killed_ends_the_gate_and_nothing_is_lost(own_gate: Gate) -> None:
    with Opening(own_gate, own_gate.seal_with_clevis(b"secret")) as asker:
        code, request = asker.code(), own_gate.wait_for_request()
        os.kill(own_gate.keyholder_pid(), signal.SIGKILL)
        assert own_gate.process
        assert own_gate.process.wait_for_end() == 1
        own_gate.start()
        assert own_gate.approve(request, code=code).returncode == 0
        assert asker.end() == (0, b"secret")


def test_stopped_gate_ends_with_0_and_leaves_no_process(own_gate: Gate) -> None:
    keyholder = own_gate.keyholder_pid()

    assert own_gate.stop() == 0
    assert not Path(f"/proc/{keyholder}").exists()
    assert not (own_gate.directory / "decider" / "serving.json").exists()


def test_clevis_that_waited_through_a_restart_is_given_up(own_gate: Gate, tmp_path: Path) -> None:
    with ClevisDecrypt(own_gate.seal_with_clevis(b"secret"), home=tmp_path) as asker:
        own_gate.wait_for_request()
        own_gate.kill()
        assert asker.end() == (1, b"")
    own_gate.start()
    assert own_gate.pending() == []


def test_decider_sees_nothing_of_keyholders_and_writes_in_its_own_folder_only(own_gate: Gate) -> None:
    """Landlock: a program that confines itself as decider does tries. Root's rights do not help it."""
    (own_gate.directory / "pin").write_text("4711")
    program = (
        "import sys; from pathlib import Path; from unlatch.gate.confine import confine_decider; folder = Path(sys.argv[1])\n"
        "print(confine_decider(folder / 'decider', hidden=[folder / 'keyholder', folder / 'pin', folder / 'later']))\n"
        "for path in ('keyholder/master.key', 'keyholder/spent', 'pin', 'decider/gate.db', '../ssh/gate-mara.pub'):\n"
        "    try: (folder / path).open('rb'); print('read')\n"
        "    except PermissionError: print('denied')\n"
        "for path in ('decider/new', 'keyholder/new', 'new', '../ssh/new', '../ssh/gate-mara.pub', '/dev/null'):\n"
        "    try: (folder / path).open('ab'); print('written')\n"
        "    except PermissionError: print('denied')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, own_gate.directory],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == [
        "True", "denied", "denied", "denied", "read", "read", "written", "denied", "denied", "denied", "denied", "written",
    ]  # fmt: skip


def test_keyholder_has_no_network_and_cannot_be_read(own_gate: Gate) -> None:
    status = Path(f"/proc/{own_gate.keyholder_pid()}/status").read_text()

    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)


def test_entry_changed_in_the_database_is_found(own_gate: Gate) -> None:
    with Opening(own_gate, own_gate.seal_with_clevis(b"secret")) as asker:
        own_gate.approve(code=asker.code())
        asker.end()
    own_gate.stop()
    with sqlite3.connect(own_gate.directory / "decider" / "gate.db") as database:
        database.execute(
            "UPDATE audit_entries SET entry = CAST(replace(entry, '127.0.0.1', '127.0.0.2') AS BLOB) WHERE kind = 'request'"
        )
    database.close()
    own_gate.start()
    done = own_gate.verify_audit()

    assert done.returncode == 1
    assert b"entry 3: a statement on a checkpoint of another log" in done.stderr


def test_request_approved_in_the_database_alone_is_not_answered(own_gate: Gate) -> None:
    with Opening(own_gate, own_gate.seal_with_clevis(b"secret")) as asker:
        asker.code()
        own_gate.kill()
        with sqlite3.connect(own_gate.directory / "decider" / "gate.db") as database:
            database.execute("UPDATE requests SET state = 'approved', version = 9")
        database.close()
        own_gate.start()

        assert asker.end() == (11, b"")


def test_database_older_than_the_last_checkpoint_is_not_served(own_gate: Gate, tmp_path: Path) -> None:
    own_gate.stop()
    path = own_gate.directory / "decider" / "gate.db"
    before = path.read_bytes()
    own_gate.start()
    with Opening(own_gate, own_gate.seal_with_clevis(b"secret"), "--no-wait") as asker:
        asker.end()
    own_gate.pending()
    own_gate.json("show", "--json", "--gate", "gate", "--key", str(own_gate.key()))
    own_gate.stop()
    for name in ("gate.db-wal", "gate.db-shm"):
        path.with_name(name).unlink(missing_ok=True)
    path.write_bytes(before)
    with pytest.raises(AssertionError, match="shorter"):
        own_gate.start()


def test_fork_is_refused_by_the_operators_machine(own_gate: Gate) -> None:
    """The gate is set back whole, keyholder's memory of its last checkpoint included: the operator's machine remembers."""
    own_gate.stop()
    saved = {path: path.read_bytes() for path in own_gate.directory.rglob("*") if path.is_file()}
    own_gate.start()
    with Opening(own_gate, own_gate.seal_with_clevis(b"secret"), "--no-wait") as asker:
        asker.end()
    own_gate.json("show", "--json", "--gate", "gate", "--key", str(own_gate.key()))
    own_gate.stop()
    for path in own_gate.directory.rglob("*"):
        if path.is_file() and path not in saved:
            path.unlink()
    for path, data in saved.items():
        path.write_bytes(data)
    own_gate.start()
    with Opening(own_gate, own_gate.seal_with_clevis(b"secret"), "--no-wait") as asker:
        asker.end()
        request = own_gate.wait_for_request()
    for arguments in (("show", request), ("approve", request, "--code", "BBBB-BBBB"), ("audit", "verify")):
        done = own_gate.run(*arguments, "--gate", "gate", "--key", str(own_gate.key()))
        assert done.returncode != 0
        assert b"extend" in done.stderr or b"fork" in done.stderr, done.stderr


def test_exported_log_verifies_offline_and_its_copy_changed_does_not(gate: Gate, jwe: bytes) -> None:
    with Opening(gate, jwe) as asker:
        gate.approve(code=asker.code())
        asker.end()
    log = gate.must("audit", "export", "--gate", "gate", "--key", str(gate.key()))
    path = gate.folder / "log.jsonl"
    path.write_bytes(log)
    assert (
        json.loads(gate.must("audit", "verify", str(path), "--genesis", gate.genesis, "--json"))["answered"]
        >= 1
    )
    path.write_bytes(log.replace(b'"operator":"mara"', b'"operator":"jo"', 1))
    assert gate.run("audit", "verify", str(path), "--genesis", gate.genesis).returncode == 1
    assert gate.run("audit", "verify", str(path), "--genesis", "A" * 43).returncode == 1


def test_gate_without_its_database_begins_a_new_log_when_told_so(own_gate: Gate) -> None:
    """docs/operations.md: keys, operators and policies are keyholder's; operators' machines notice the new log."""
    sealed = own_gate.seal_with_clevis(b"secret")
    with Opening(own_gate, sealed) as asker:
        own_gate.approve(code=asker.code())
        asker.end()
    own_gate.stop()
    for path in (own_gate.directory / "decider").iterdir():
        path.unlink()
    with pytest.raises(AssertionError, match="shorter"):
        own_gate.start()
    (own_gate.directory / "keyholder" / "head.json").unlink()
    own_gate.start()
    with Opening(own_gate, sealed) as asker:
        code = asker.code()
        assert b"extend" in own_gate.approve(code=code).stderr
        for path in own_gate.folder.glob(".local/state/unlatch/gates/*.checkpoint"):
            path.unlink()
        assert own_gate.approve(code=code).returncode == 0
        assert asker.end() == (0, b"secret")
    assert own_gate.verify_audit().returncode == 0


def test_card_is_approved_by_the_command_that_it_shows(gate: Gate, jwe: bytes) -> None:
    with Opening(gate, jwe) as asker:
        code, request = asker.code(), gate.wait_for_request()
        done = gate.run("approve", request, "--gate", gate.people, "--code", code, "--key", str(gate.key()))

        assert done.returncode == 0
        assert asker.end() == (0, b"secret")
