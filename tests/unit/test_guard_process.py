"""The guard process: confinement, loading, hostile peers, forgetting."""

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.guard_client import (
    ECDSA_P256,
    HEADER,
    ControlFault,
    GuardClient,
    RefusedByGuard,
    WorkerClient,
    base64url,
    bundle,
    certificate_verify,
    private_key_secret,
    running_guard,
    seal,
    spki,
    stream_bytes,
    token_secret,
)
from support.pki import new_key

from unlatch.memguard.control import guard_program

KEY = os.urandom(32)
TLS = new_key("p256")
SEALED = seal(bundle({"tls": private_key_secret(TLS, {"names": ["pay.example"]})}), KEY)
CONFIGURATION = {
    "certificates": [{"where": "w", "key": "tls", "spki": base64url(spki(TLS)), "names": ["pay.example"]}],
    "inject": [],
}
THREADS = 36  # 16 edge workers and an egress, twice, and two to spare


@pytest.fixture
def guard() -> Iterator[GuardClient]:
    with running_guard() as guard:
        yield guard


@pytest.fixture
def edge(guard: GuardClient) -> Iterator[WorkerClient]:
    """A worker of a guard that is loaded and configured."""
    guard.load(SEALED, KEY)
    guard.configure(CONFIGURATION)
    worker = guard.edge()
    yield worker
    worker.socket.close()


def names_a_loader(program: Path) -> bool:
    """Whether an ELF file has a program header PT_INTERP: then the system's loader and libraries are part of it."""
    content = program.read_bytes()
    start, size, count = struct.unpack_from("<Q14xHH", content, 0x20)
    kinds = [struct.unpack_from("<I", content, start + size * number)[0] for number in range(count)]
    assert 1 in kinds, "no PT_LOAD: these are not the headers"
    return 3 in kinds


def test_program_is_linked_statically() -> None:
    assert names_a_loader(Path(sys.executable).resolve())
    assert not names_a_loader(Path(guard_program()))


def test_self_test_passes() -> None:
    done = subprocess.run([str(guard_program()), "--self-test"], capture_output=True, check=True)

    assert json.loads(done.stdout)["ok"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--control-fd"],
        ["--control-fd", "x"],
        ["--self-test", "x"],
        ["--control-fd", "3", "--user", "0:1"],
        ["--control-fd", "3", "--user", "1:0"],
        ["--control-fd", "3", "--user", "nobody"],
    ],
)
def test_other_arguments_are_a_usage_error(arguments: list[str]) -> None:
    done = subprocess.run([str(guard_program()), *arguments], capture_output=True)

    assert done.returncode == 2
    assert done.stderr.startswith(b"unlatch: error: ")


def test_control_descriptor_that_is_not_open_fails() -> None:
    done = subprocess.run([str(guard_program()), "--control-fd", "77"], capture_output=True)

    assert done.returncode == 1


def test_process_is_confined(guard: GuardClient) -> None:
    status, facts = guard.status(), guard.facts()

    assert (facts["Seccomp"], facts["NoNewPrivs"]) == ("2", "1")
    assert resource.prlimit(guard.process.pid, resource.RLIMIT_CORE) == (0, 0)
    assert status["memory"]["seccomp"]
    assert status["memory"]["not_dumpable"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_guard_becomes_the_user_it_is_given_for_ever(guard: GuardClient) -> None:
    weaker_as_root = {one["name"] for one in guard.status()["memory"]["weaker"]} - {"own_user"}
    with running_guard(arguments=["--user", "64321:64322"]) as guard:
        guard.load(SEALED, KEY)
        guard.configure(CONFIGURATION)
        worker = guard.edge()
        worker.sign(1, ECDSA_P256, certificate_verify())
        worker.socket.close()
        facts, memory = guard.facts(), guard.status()["memory"]

        assert facts["Uid"].split() == ["64321"] * 4
        assert facts["Gid"].split() == ["64322"] * 4
        assert (facts["Groups"], int(facts["CapEff"], 16), int(facts["CapPrm"], 16)) == ("", 0, 0)
        assert memory["own_user"]
        assert {one["name"] for one in memory["weaker"]} <= weaker_as_root | {"all_locked"}
        guard.reshare()


def test_no_system_call_beyond_the_filter_is_made(guard: GuardClient, edge: WorkerClient) -> None:
    for _ in range(20):
        edge.sign(1, ECDSA_P256, certificate_verify())
    edge.ticket_keys()
    guard.reshare()
    with pytest.raises(RefusedByGuard):
        edge.sign(1, ECDSA_P256, b"no handshake")
    guard.drop()

    assert guard.status()["trapped_calls"] == {}


def test_only_the_control_socket_is_kept() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    spare = os.open("/dev/null", os.O_RDONLY)
    with ours, theirs:
        process = subprocess.Popen(
            [str(guard_program()), "--control-fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno(), spare],
            stderr=subprocess.DEVNULL,
        )
        os.close(spare)
        client = GuardClient(process, ours)
        client.status()

        kept = {int(path.name): path.readlink() for path in Path(f"/proc/{process.pid}/fd").iterdir()}
        own = [str(kept[number]) for number in kept.keys() - {0, 1, 2, theirs.fileno()}]

        assert {0, 1, 2, theirs.fileno()} <= kept.keys()
        assert own == ["anon_inode:[eventfd]"]  # wakes the thread that reads custodians
    process.wait(10)


def test_guard_ends_with_its_control_socket(guard: GuardClient) -> None:
    guard.control.close()

    assert guard.process.wait(10) == 0


def test_terminal_signals_are_the_supervisors_business(guard: GuardClient) -> None:
    guard.status()  # it runs, so it has taken its own view of signals
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        guard.process.send_signal(number)

    assert guard.status()["locked"]


def test_load_describes_without_secrets(guard: GuardClient) -> None:
    use = {"upstream": "https://api.example:443", "callers": ["anyone"]}
    secrets = {"tls": private_key_secret(TLS, {"names": ["pay.example"]}), "psp": token_secret("hidden", use)}

    loaded = guard.load(seal(bundle(secrets), KEY), KEY)

    assert loaded == {
        "set": base64url(b"s" * 32),
        "secrets": [
            {
                "name": "tls",
                "kind": "private-key",
                "algorithm": "ecdsa-p256",
                "use": {"names": ["pay.example"]},
            },
            {"name": "psp", "kind": "token", "algorithm": None, "use": use},
        ],
    }
    assert not guard.status()["locked"]


def altered(sealed: bytes, field: int) -> bytes:
    parts = sealed.split(b".")
    first = parts[field][:1]
    parts[field] = (b"B" if first == b"A" else b"A") + parts[field][1:]
    return b".".join(parts)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (stream_bytes(SEALED, os.urandom(32)), "tag"),
        (stream_bytes(altered(SEALED, 2), KEY), "tag"),
        (stream_bytes(altered(SEALED, 3), KEY), "tag"),
        (stream_bytes(altered(SEALED, 4), KEY), "tag"),
        (stream_bytes(b"no jwe", KEY), "compact JWE"),
        (stream_bytes(seal(b"{}", KEY), KEY), "newer version"),
        (stream_bytes(seal(bundle({}), KEY), KEY), "number of secrets"),
        (stream_bytes(seal(bundle({"a": {"kind": "private-key", "pem": "x"}}), KEY), KEY), "PEM"),
        (stream_bytes(seal(bundle({"a": token_secret("t", {"callers": ["anyone"]})}), KEY), KEY), "upstream"),
        (stream_bytes(seal(bundle({"a": private_key_secret(TLS, {"until": 5})}), KEY), KEY), "until"),
        (stream_bytes(SEALED, KEY, count=2), "one sealed file"),
        (struct.pack(">II", 1, 0) + KEY, "one sealed file"),
        (struct.pack(">II", 1, (1 << 20) + 1) + KEY, "one sealed file"),
        (stream_bytes(SEALED, KEY)[:-1], "broke off"),
        (b"", "broke off"),
    ],
    ids=range(15),
)
def test_load_that_does_not_open_is_refused_and_leaves_guard_locked(
    guard: GuardClient, data: bytes, message: str
) -> None:
    with pytest.raises(ControlFault) as refused:
        guard.load_stream(data)

    assert refused.value.kind == "payload"
    assert message in refused.value.message
    assert refused.value.hint or "one sealed file" in message
    assert guard.status()["locked"]


def test_unlock_hears_the_same_answer_as_the_supervisor(guard: GuardClient) -> None:
    assert guard.load_stream(stream_bytes(SEALED, KEY))[1] == {"ok": True}


def test_another_set_is_refused_while_one_is_held(guard: GuardClient) -> None:
    guard.load(SEALED, KEY)
    other = seal(bundle({"tls": private_key_secret(new_key("p256"), {})}, set_id=b"o" * 32), KEY)

    with pytest.raises(ControlFault) as refused:
        guard.load(other, KEY)

    assert refused.value.kind == "state"
    assert guard.load(SEALED, KEY)["set"] == base64url(b"s" * 32)


def test_nothing_is_signed_or_configured_while_locked(guard: GuardClient) -> None:
    for ask in (lambda: guard.configure(CONFIGURATION), guard.edge, guard.egress, lambda: guard.csr("tls")):
        with pytest.raises(ControlFault) as refused:
            ask()
        assert refused.value.kind == "state"


def test_drop_closes_the_workers_and_forgets() -> None:
    with running_guard() as guard:
        before = guard.status()["memory"]["locked_bytes"]
        guard.load(SEALED, KEY)
        guard.configure(CONFIGURATION)
        edge = guard.edge()
        forgets(guard, edge, before)
        edge.socket.close()


def forgets(guard: GuardClient, edge: WorkerClient, before: int) -> None:
    edge.sign(1, ECDSA_P256, certificate_verify())

    guard.drop()

    assert edge.is_closed()
    status = guard.status()
    assert (status["locked"], status["configured"], status["workers"]) == (True, False, 0)
    assert status["memory"]["locked_bytes"] == before
    guard.load(SEALED, KEY)
    guard.configure(CONFIGURATION)
    again = guard.edge()
    again.sign(1, ECDSA_P256, certificate_verify())
    again.socket.close()


def test_ticket_keys_do_not_survive_a_drop(guard: GuardClient, edge: WorkerClient) -> None:
    before = edge.ticket_keys()
    guard.drop()
    guard.load(SEALED, KEY)
    worker = guard.edge()

    assert not set(before[2:]) & set(worker.ticket_keys()[2:])
    worker.socket.close()


def frame(
    operation: int, payload: bytes, *, version: int = 1, key: int = 0, length: int | None = None
) -> bytes:
    return HEADER.pack(version, operation, key, 9, len(payload) if length is None else length) + payload


MALFORMED = [
    b"x",
    frame(0x01, b"\4\3" + certificate_verify(), version=2),
    frame(0x01, b"\4\3" + certificate_verify(), length=7),
    frame(0x01, b""),
    frame(0x01, b"\4"),
    frame(0x02, b"x"),
    frame(0x02, b"", key=1),
    frame(0x10, b""),
    frame(0x10, b"\0\1"),
    frame(0x40, b"{}"),
    frame(0x44, b"{}"),
    frame(0x81, b""),
    frame(0xFF, b"\1"),
    frame(0x01, b"x" * (16 * 1024)),
    os.urandom(16 * 1024 + 1),
]


@pytest.mark.parametrize("datagram", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_datagram_closes_only_its_socket(
    guard: GuardClient, edge: WorkerClient, datagram: bytes
) -> None:
    hostile = guard.edge()
    hostile.socket.send(datagram)

    reply = hostile.socket.recv(100)

    assert (reply[1], reply[12:]) == (0xFF, b"\1")
    assert hostile.is_closed()
    edge.sign(1, ECDSA_P256, certificate_verify())
    assert guard.status()["refusals"]["malformed"] == 1
    hostile.socket.close()


def test_flood_of_malformed_datagrams_stops_nobody(guard: GuardClient, edge: WorkerClient) -> None:
    for round_ in range(200):
        hostile = guard.edge()
        hostile.socket.send(os.urandom(1 + round_ * 50))
        assert hostile.is_closed()
        hostile.socket.close()
        edge.sign(1, ECDSA_P256, certificate_verify())

    assert guard.status()["refusals"]["malformed"] == 200


def test_worker_that_never_reads_holds_up_nobody(guard: GuardClient, edge: WorkerClient) -> None:
    silent = guard.edge()
    silent.socket.setblocking(False)
    request = frame(0x01, b"\4\3" + certificate_verify(), key=1)
    with contextlib.suppress(BlockingIOError):
        while True:
            silent.socket.send(request)

    edge.sign(1, ECDSA_P256, certificate_verify())
    guard.configure(CONFIGURATION)
    guard.drop()

    assert guard.status()["workers"] == 0
    silent.socket.close()


def test_sockets_beyond_the_threads_are_refused_until_one_goes(
    guard: GuardClient, edge: WorkerClient
) -> None:
    workers = [edge, *(guard.edge() for _ in range(THREADS - 1))]

    with pytest.raises(ControlFault) as refused:
        guard.edge()

    assert refused.value.kind == "state"
    assert guard.status()["workers"] == THREADS
    for worker in workers[1:]:
        worker.sign(1, ECDSA_P256, certificate_verify())
        worker.socket.close()
    edge.sign(1, ECDSA_P256, certificate_verify())


@pytest.mark.parametrize(
    ("rights", "kind"),
    [
        ({"role": "edge", "node": "", "keys": [1], "rate": 1}, "malformed"),
        ({"role": "edge", "node": "a", "keys": [1], "rate": 0}, "malformed"),
        ({"role": "edge", "node": "a", "rate": 1}, "malformed"),
        ({"role": "edge", "node": "a", "keys": [2], "rate": 1}, "key"),
        ({"role": "edge", "node": "a", "keys": [0], "rate": 1}, "key"),
        ({"role": "egress", "keys": [1]}, "malformed"),
        ({"role": "supervisor"}, "malformed"),
        ({}, "malformed"),
    ],
    ids=str,
)
def test_wrong_rights_are_refused(
    guard: GuardClient, edge: WorkerClient, rights: dict[str, Any], kind: str
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, pytest.raises(ControlFault) as refused:
        guard.ask(0x42, rights, [theirs.fileno()])

    assert refused.value.kind == kind


def test_worker_needs_exactly_one_seqpacket_socket(guard: GuardClient, edge: WorkerClient) -> None:
    stream, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with stream, peer, Path("/dev/null").open() as file, socket.socket(socket.AF_INET) as inet:
        for descriptors in (
            [],
            [stream.fileno()],
            [file.fileno()],
            [inet.fileno()],
            [stream.fileno()] * 2,
            [stream.fileno()] * 6,
        ):
            with pytest.raises(ControlFault) as refused:
                guard.ask(0x42, {"role": "egress"}, descriptors)
            assert refused.value.kind == "malformed"


@pytest.mark.parametrize("datagram", [b"x", b"\2" + b"\0" * 11, os.urandom(5000)], ids=range(3))
def test_nonsense_on_the_control_socket_is_refused(guard: GuardClient, datagram: bytes) -> None:
    guard.control.send(datagram)

    reply = guard.control.recv(65536)

    assert reply[1] == 0xFF
    assert json.loads(reply[12:])["error"] == "malformed"
    assert guard.status()["locked"]


def test_worker_socket_is_locked_after_the_secrets_went(guard: GuardClient, edge: WorkerClient) -> None:
    guard.drop()

    with pytest.raises((RefusedByGuard, ConnectionError)):
        edge.sign(1, ECDSA_P256, certificate_verify())


def test_log_is_json_and_holds_no_secret() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    with theirs:
        process = subprocess.Popen(
            [str(guard_program()), "--control-fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
    with ours:
        client = GuardClient(process, ours)
        use = {"upstream": "https://api.example:443", "callers": ["anyone"]}
        client.load(seal(bundle({"psp": token_secret("hidden-token", use)}), KEY), KEY)
        with pytest.raises(ControlFault):
            client.csr("psp")
    _, log = process.communicate(timeout=10)

    events = [json.loads(line) for line in log.splitlines()]
    assert [event["event"] for event in events] == ["ready", "load", "refused", "ended"]
    assert {event["process"] for event in events} == {"guard"}
    assert b"hidden-token" not in log
