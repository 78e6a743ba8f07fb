"""Our gate speaks Tang as tangd 11 does: 85 recorded requests, and where we are stricter on purpose."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from support.gate import Gate
from support.product import eventually
from support.vectors import load

from unlatch.bootstrap import jose

pytestmark = pytest.mark.interop

HASHES = {"S1": "sha1", "S224": "sha224", "S256": "sha256", "S384": "sha384", "S512": "sha512"}
INTERIM = re.compile(
    rb"\AHTTP/1\.1 100 .*?\r\n\r\n", re.DOTALL
)  # `Expect: 100-continue` asks for it; tangd sends none
# Status of ours where tangd's differs. Stricter: one spelling for each point, no private part, small bodies, Host needed
# (RFC 9112 section 3.2).
DIFFERENT = {
    "rec: private member d present": 400,
    "rec: duplicate JSON key x": 400,
    "rec: y >= p (y+p, 67 bytes)": 400,
    "rec: x with extra leading zero byte (67 bytes)": 400,
    "rec: x with leading zero bytes stripped (shorter than 66)": 400,
    "body 60 KiB json (pad member)": 413,
    "rec: no Host header": None,
    "HTTP/2 preface": 404,
}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate whose workload answers stock clients."""
    with Gate(tmp_path_factory.mktemp("gate"), policy=("--clients", "stock", "--hold", "50m")) as running:
        yield running


def names_of_keys(gate: Gate) -> dict[str, str]:
    """Thumbprints of the recorded server's keys, each with the thumbprint of ours that takes its place."""
    mine, found = advertised(gate), {}
    for case in load("malformed_requests_to_tangd")["cases"]:
        marked = re.match(r"(?:adv/\{(sig|exc)|POST /rec/\{(kid)) ?(S\d+)?", case["case"])
        if marked:
            theirs = case["request"].split(" ")[1].rpartition("/")[2]
            key = mine["verify" if marked[1] == "sig" else "deriveKey"]
            found[theirs] = jose.thumbprint(key, algorithm=HASHES[marked[3] or "S256"])
    return found


def advertised(gate: Gate) -> dict[str, dict[str, Any]]:
    head, body = ask(gate, b"GET /s/pay/adv HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    document = json.loads(body)
    payload = json.loads(base64.urlsafe_b64decode(document["payload"] + "=="))
    return {key["key_ops"][0]: key for key in payload["keys"]}


def send(gate: Gate, request: bytes) -> socket.socket:
    port = int(gate.url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(request)
    return connection


def read_reply(connection: socket.socket) -> tuple[str, bytes]:
    """Head and body of one reply; empty where the connection was closed without one."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while b"\r\n\r\n" not in data and (piece := connection.recv(65536)):
            data = INTERIM.sub(b"", data + piece)
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        while length and len(body) < int(length[1]) and (piece := connection.recv(65536)):
            body += piece
        return head.decode(), body
    return "", b""


def ask(gate: Gate, request: bytes) -> tuple[str, bytes]:
    with send(gate, request) as connection:
        return read_reply(connection)


def completed(request: str) -> str:
    """The four longest requests are recorded by their beginning and size: fill them up again."""
    cut = re.fullmatch(r"(.*)\.\.\. \[(\d+) bytes\]", request, re.DOTALL)
    if cut is None:
        return request
    head, size = cut[1], int(cut[2])
    if "\r\n\r\n" in head:
        body = head.index("\r\n\r\n") + 4
        return head[:body] + '{"pad":"' + "x" * (size - body - 10) + '"}'
    tail = "\r\n\r\n" if "X-Big" in head else " HTTP/1.1\r\nHost: x\r\n\r\n"
    return head + head[-1] * (size - len(head) - len(tail)) + tail


def ours(request: str, names: dict[str, str]) -> bytes:
    """A recorded request with our paths and keys."""
    request = completed(request)
    for theirs, mine in names.items():
        request = request.replace(theirs, mine)
    request = re.sub(r"^(\w+) (/+(?:adv|rec))", r"\1 /s/pay\2", request)
    return request.encode("latin-1")


def is_taken(gate: Gate, request: bytes) -> bool:
    """Whether a recovery that tangd answers is held here. The recordings repeat a point, which ends at once: 503."""
    assert gate.process
    before = requests_of(gate)
    with send(gate, request) as connection:

        def look() -> bool | None:
            if select.select([connection], [], [], 0)[0]:
                return read_reply(connection)[0].startswith("HTTP/1.1 503") or None
            return True if requests_of(gate) > before else None

        return eventually("a request or its end", look)


def requests_of(gate: Gate) -> int:
    assert gate.process
    return sum(event.get("event") == "request" for event in gate.process.events())


def test_recorded_requests_get_tangds_status(gate: Gate) -> None:
    """One test for all of them: those that tangd answers at once are held here, and given up again."""
    names = names_of_keys(gate)
    taken = 0
    for case in load("malformed_requests_to_tangd")["cases"]:
        name, request = case["case"], ours(case["request"], names)
        theirs = case["status_line"].split(" ")[1] if case["status_line"] else None
        wanted = DIFFERENT.get(name, int(theirs) if theirs else None)
        if wanted == 200 and case["request"].startswith("POST"):
            assert is_taken(gate, request), name
            taken += 1
            continue
        with send(gate, request) as connection:
            if "half-close" in name:
                connection.shutdown(socket.SHUT_WR)
            head, body = read_reply(connection)
        status = int(head.split(" ")[1]) if head else None

        assert (name, status) == (name, wanted)
        fields = {line.partition(":")[0].lower() for line in head.splitlines()[1:]}
        assert fields <= {"content-type", "content-length", "connection", "date"}, name
        assert status == 200 or body == b"", name

    assert taken == 15


def test_advertisement_has_one_signature_and_by_thumbprint_two(gate: Gate) -> None:
    _, plain = ask(gate, b"GET /s/pay/adv HTTP/1.1\r\nHost: x\r\n\r\n")
    _, named = ask(gate, f"GET /s/pay/adv/{gate.thumbprint} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    assert "signature" in json.loads(plain)
    assert len(json.loads(named)["signatures"]) == 2


def test_workload_advertises_its_own_key_only(gate: Gate) -> None:
    gate.add_workload("other", "--clients", "stock")
    kids = []
    for name in ("pay", "other"):
        _, body = ask(gate, f"GET /s/{name}/adv HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        payload = json.loads(base64.urlsafe_b64decode(json.loads(body)["payload"] + "=="))
        assert len(payload["keys"]) == 2
        kids.append(next(jose.thumbprint(key) for key in payload["keys"] if "deriveKey" in key["key_ops"]))

    assert len(set(kids)) == 2
    point = json.dumps(
        {name: advertised(gate)["deriveKey"][name] for name in ("kty", "crv", "x", "y")}
    ).encode()
    request = b"POST /s/pay/rec/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (
        kids[1].encode(),
        len(point),
    )
    assert ask(gate, request + point)[0].startswith("HTTP/1.1 404")


def test_answers_leave_in_one_segment_and_connections_are_kept(gate: Gate) -> None:
    request = b"GET /s/pay/adv HTTP/1.1\r\nHost: x\r\n\r\n"
    with send(gate, request) as connection:
        first = read_reply(connection)
        connection.sendall(request)

        assert read_reply(connection) == first
