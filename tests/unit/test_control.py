"""The supervisor's side of guard's control socket: codec, errors, overlapping requests, a guard that dies."""

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.guard_client import base64url, bundle, private_key_secret, seal, spki, stream_bytes
from support.pki import new_key

from unlatch.errors import (
    BusyError,
    ConfigError,
    DamagedFileError,
    SealedRulesError,
    UnavailableError,
    UnlatchError,
)
from unlatch.memguard import control
from unlatch.memguard.control import GuardControl, decode, encode, guard_program

KEY = os.urandom(32)
TLS = new_key("p256")
SEALED = seal(
    bundle({"tls": private_key_secret(TLS, {"names": ["pay.example"], "roles": ["server", "csr"]})}), KEY
)
CLAIM = {"where": "listeners[0]", "key": "tls", "spki": base64url(spki(TLS)), "names": ["pay.example"]}


def fault(kind: str, **members: str) -> dict[str, Any]:
    return {"error": kind, "message": "what is wrong", "hint": None, "where": None} | members


def test_datagram_is_laid_out_as_documented() -> None:
    assert encode(control.STATUS, 0x01020304, {}) == b"\x01\x44\0\0\1\2\3\4\0\0\0\2{}"


def test_configuration_beyond_one_datagram_is_refused() -> None:
    with pytest.raises(UnlatchError, match="at most 196608"):
        encode(control.CONFIGURE, 1, {"certificates": ["x" * 200_000]})


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\1\xc4\0\0\0\0\0\1\0\0",
        b"\2\xc4\0\0\0\0\0\1\0\0\0\2{}",
        b"\1\xc4\0\0\0\0\0\1\0\0\0\3{}",
        b"\1\xc4\0\0\0\0\0\1\0\0\0\2{]",
        b"\1\xc4\0\0\0\0\0\1\0\0\0\2[]",
    ],
)
def test_datagram_that_is_no_reply_is_refused(datagram: bytes) -> None:
    with pytest.raises(UnlatchError, match="message from guard"):
        decode(datagram)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("payload", DamagedFileError),
        ("rules", SealedRulesError),
        ("key", SealedRulesError),
        ("state", BusyError),
        ("require", ConfigError),
        ("malformed", UnlatchError),
        ("internal", UnlatchError),
        ("new kind", UnlatchError),
    ],
)
def test_fault_becomes_an_error_with_place_and_hint(kind: str, error: type[UnlatchError]) -> None:
    payload = json.dumps(fault(kind, where="routes[0]", hint="seal again")).encode()
    reply = decode(control._HEADER.pack(1, control.REFUSED, 0, 1, len(payload)) + payload)

    with pytest.raises(UnlatchError) as raised:
        reply.unwrap(control.CONFIGURE)

    assert type(raised.value) is error
    assert (str(raised.value), raised.value.hint) == ("what is wrong (routes[0])", "seal again")


def test_answer_to_another_operation_is_refused() -> None:
    reply = decode(b"\1\xc4\0\0\0\0\0\1\0\0\0\2{}")

    with pytest.raises(UnlatchError, match="0x43 with 0xc4"):
        reply.unwrap(control.CSR)


def run_with_peer(test: Callable[[GuardControl, socket.socket], Coroutine[Any, Any, None]]) -> None:
    """Run with a client and the other end of its socket, which the test plays."""

    async def body() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        client = GuardControl(ours)
        with theirs:
            try:
                async with asyncio.timeout(10):
                    await test(client, theirs)
            finally:
                client.close()

    asyncio.run(body())


async def asked(peer: socket.socket) -> tuple[int, int]:
    """Operation and number of the next request."""
    datagram = await asyncio.get_running_loop().sock_recv(peer, control.MAX_CONTROL_BYTES)
    _, operation, _, number, _ = control._HEADER.unpack_from(datagram)
    return operation, number


def answer(peer: socket.socket, operation: int, number: int, content: dict[str, Any]) -> None:
    peer.send(encode(operation | control.REPLY, number, content))


def test_answers_find_their_requests_in_any_order() -> None:
    async def test(client: GuardControl, peer: socket.socket) -> None:
        first = asyncio.create_task(client.csr("a"))
        second = asyncio.create_task(client.status())
        (one, one_id), (two, two_id) = await asked(peer), await asked(peer)
        answer(peer, control.STATUS, 4711, {"locked": False})
        answer(peer, two, two_id, {"locked": True})
        answer(peer, one, one_id, {"pem": "request"})

        assert (await first, await second) == ("request", {"locked": True})

    run_with_peer(test)


def test_guard_that_goes_ends_every_request() -> None:
    async def test(client: GuardControl, peer: socket.socket) -> None:
        waiting = [asyncio.create_task(client.status()) for _ in range(3)]
        await asked(peer)
        peer.close()

        for task in waiting:
            with pytest.raises(UnavailableError, match="guard is not running"):
                await task
        with pytest.raises(UnavailableError):
            await client.status()

    run_with_peer(test)


def test_guard_that_talks_nonsense_counts_as_gone() -> None:
    async def test(client: GuardControl, peer: socket.socket) -> None:
        waiting = asyncio.create_task(client.status())
        await asked(peer)
        peer.send(b"nonsense")

        with pytest.raises(UnavailableError):
            await waiting

    run_with_peer(test)


def test_guard_that_does_not_answer_is_given_up() -> None:
    async def test(client: GuardControl, peer: socket.socket) -> None:
        with pytest.raises(UnavailableError, match="did not answer"):
            await client._ask(control.STATUS, {}, seconds=0)

    run_with_peer(test)


def test_full_socket_is_waited_for() -> None:
    async def test(client: GuardControl, peer: socket.socket) -> None:
        large = {"certificates": ["x" * 100_000]}
        tasks = [asyncio.create_task(client.configure(large)) for _ in range(5)]
        for _ in tasks:
            operation, number = await asked(peer)
            answer(peer, operation, number, {"keys": [], "warnings": []})

        for task in tasks:
            assert await task == {"keys": [], "warnings": []}

    run_with_peer(test)


def run_with_guard(test: Callable[[GuardControl], Coroutine[Any, Any, None]]) -> None:
    """Run with a real guard."""

    async def body() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = str(theirs.fileno())
            process = await asyncio.create_subprocess_exec(
                str(guard_program()),
                "--control-fd",
                number,
                pass_fds=[theirs.fileno()],
                stderr=subprocess.DEVNULL,
            )
        client = GuardControl(ours)
        try:
            async with asyncio.timeout(20):
                await test(client)
        finally:
            client.close()
            await process.wait()
        assert process.returncode == 0

    asyncio.run(body())


async def load(client: GuardControl, data: bytes) -> dict[str, Any]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        task = asyncio.create_task(client.load(theirs.fileno()))
        await asyncio.to_thread(ours.sendall, data)
        return await task


def test_every_request_reaches_a_real_guard() -> None:
    async def test(client: GuardControl) -> None:
        assert (await client.status())["locked"]
        await client.settings(reshare_ms=60_000, require=[], never_joined=[])
        assert await client.reshare() == 1
        assert (await load(client, stream_bytes(SEALED, KEY)))["secrets"][0]["name"] == "tls"
        assert (await client.configure({"certificates": [CLAIM], "inject": []}))["keys"][0]["id"] == 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            await client.worker(theirs.fileno(), role="edge", node="a", keys=[1], rate=100)
            await client.worker(theirs.fileno(), role="egress")
            assert (await client.csr("tls")).startswith("-----BEGIN CERTIFICATE REQUEST-----")
            assert (await client.status())["workers"] == 2
            await client.drop()
        assert (await client.status())["locked"]

    run_with_guard(test)


def test_refusals_of_a_real_guard_become_errors() -> None:
    async def test(client: GuardControl) -> None:
        with pytest.raises(BusyError):
            await client.configure({"certificates": [CLAIM], "inject": []})
        with pytest.raises(DamagedFileError, match="tag does not fit"):
            await load(client, stream_bytes(SEALED, os.urandom(32)))
        await load(client, stream_bytes(SEALED, KEY))
        with pytest.raises(SealedRulesError, match=r"sealed for pay\.example \(listeners\[0\]\)") as refused:
            await client.configure({"certificates": [CLAIM | {"names": ["admin.example"]}], "inject": []})
        assert refused.value.hint
        with pytest.raises(SealedRulesError, match="does not belong"):
            await client.configure({"certificates": [CLAIM | {"spki": "AAAA"}], "inject": []})

    run_with_guard(test)


def test_program_lies_beside_the_module() -> None:
    assert guard_program().is_absolute()
    assert guard_program().name == "unlatch-guard"
