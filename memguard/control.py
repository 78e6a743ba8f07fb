"""The supervisor's side of guard's control socket (docs/protocol.md sections 1 and 1.4).

`encode` and `decode` are the pure codec; `GuardControl` moves datagrams and descriptors. Guard's refusals become
the errors of `unlatch.errors`, with guard's message, the place in the configuration behind it, and guard's hint.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from unlatch.errors import (
    BusyError,
    ConfigError,
    DamagedFileError,
    SealedRulesError,
    UnavailableError,
    UnlatchError,
)

VERSION: Final = 1
MAX_CONTROL_BYTES: Final = 192 * 1024
LOAD: Final = 0x40
CONFIGURE: Final = 0x41
WORKER: Final = 0x42
CSR: Final = 0x43
STATUS: Final = 0x44
DROP: Final = 0x45
SETTINGS: Final = 0x46
RESHARE: Final = 0x47
CUSTODIAN: Final = 0x48
REPLY: Final = 0x80
REFUSED: Final = 0xFF

# Guard gives unlock's stream 10 s, and opening takes milliseconds.
_LOAD_SECONDS: Final = 20
_ANSWER_SECONDS: Final = 10
_HEADER: Final = struct.Struct(">BBHII")


def guard_program() -> Path:
    """The guard that was built with this package. Never looked up in PATH."""
    return Path(__file__).with_name("unlatch-guard")


@dataclass(frozen=True, slots=True)
class Reply:
    """One datagram from guard."""

    operation: int
    request_id: int
    content: dict[str, Any]

    def unwrap(self, asked: int) -> dict[str, Any]:
        """The content, if guard did what was asked.

        Raises:
            SealedRulesError: wider than the sealed rules, or certificate and key do not fit.
            DamagedFileError: the sealed file does not open or parse.
            BusyError: not in this state.
            ConfigError: a required protection is missing on this host.
            UnlatchError: guard failed, or did not understand.
        """
        if self.operation == REFUSED:
            _raise_fault(self.content)
        if self.operation != asked | REPLY:
            raise UnlatchError(f"guard answered 0x{asked:02x} with 0x{self.operation:02x}")
        return self.content


def encode(operation: int, request_id: int, content: dict[str, Any]) -> bytes:
    """One datagram to guard.

    Raises:
        UnlatchError: over 192 KiB, which is a configuration of thousands of routes.
    """
    payload = json.dumps(content, separators=(",", ":")).encode()
    if _HEADER.size + len(payload) > MAX_CONTROL_BYTES:
        raise UnlatchError(f"message to guard is {len(payload)} bytes, at most {MAX_CONTROL_BYTES} fit")
    return _HEADER.pack(VERSION, operation, 0, request_id, len(payload)) + payload


def decode(datagram: bytes) -> Reply:
    """Read one datagram from guard.

    Raises:
        UnlatchError: another version, a wrong length, no JSON object.
    """
    if len(datagram) < _HEADER.size:
        raise UnlatchError(f"message from guard is {len(datagram)} bytes, expected at least {_HEADER.size}")
    version, operation, _, request_id, length = _HEADER.unpack_from(datagram)
    payload = datagram[_HEADER.size :]
    if version != VERSION or length != len(payload):
        raise UnlatchError(
            "message from guard has another version or a wrong length: are both from one build?"
        )
    try:
        content = json.loads(payload)
    except ValueError as error:
        raise UnlatchError("message from guard is not JSON") from error
    if not isinstance(content, dict):
        raise UnlatchError("message from guard is not a JSON object")
    return Reply(operation, request_id, content)


def _raise_fault(fault: dict[str, Any]) -> NoReturn:
    message, where = str(fault.get("message", "guard refused")), fault.get("where")
    hint = fault.get("hint")
    kinds: dict[str, type[UnlatchError]] = {
        "payload": DamagedFileError,
        "rules": SealedRulesError,
        "key": SealedRulesError,
        "state": BusyError,
        "require": ConfigError,
    }
    kind = kinds.get(str(fault.get("error")), UnlatchError)
    raise kind(f"{message} ({where})" if where else message, hint=str(hint) if hint else None)


class GuardControl:
    """Requests to guard over a connected, non-blocking SEQPACKET socket.

    Requests may overlap: answers are matched by number. When guard is gone, every request ends with
    UnavailableError, those under way included.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._gone = False

    async def settings(
        self,
        *,
        reshare_ms: int | None = None,
        require: list[str] | None = None,
        never_joined: list[str] | None = None,
        ticket_epoch_seconds: int | None = None,
    ) -> None:
        """Say how guard keeps secrets: after its start, before the first load, and at reload.

        Args:
            reshare_ms: time between two changes of every share, 100 to 3 600 000; 5000 if never said.
            require: protections that must be there, of "memfd_secret", "keyring", "all_locked".
            never_joined: names of RSA keys that are never whole, not even to sign (seven to fifteen times the cost).
            ticket_epoch_seconds: how long a ticket key is used, 10 to 86 400; 3600 if never said.

        Raises:
            ConfigError: a required protection is missing; nothing changed.
            BusyError: `never_joined` or the epoch differs while secrets are held; nothing changed.
        """
        members = {
            "reshare_ms": reshare_ms,
            "require": require,
            "never_joined": never_joined,
            "ticket_epoch_seconds": ticket_epoch_seconds,
        }
        await self._ask(SETTINGS, {name: value for name, value in members.items() if value is not None})

    async def reshare(self) -> int:
        """Change every share now. Gives the generation that is in force."""
        return int((await self._ask(RESHARE, {}))["generation"])

    async def load(self, stream: int) -> dict[str, Any]:
        """Have guard read the sealed file and its content key from a stream socket that unlock writes to.

        Returns:
            `{"set", "secrets": [{"name", "kind", "algorithm", "use"}]}`.

        Raises:
            DamagedFileError: the file does not open or parse.
            BusyError: another set is held, or a load is under way.
        """
        return await self._ask(LOAD, {}, descriptors=[stream], seconds=_LOAD_SECONDS)

    async def configure(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """Check a configuration (section 1.5) against the sealed rules and put it in force.

        Returns:
            `{"keys": [{"id", "name", "algorithm", "spki_sha256"}], "warnings": [text]}`.

        Raises:
            SealedRulesError: wider than the rules, or a certificate and key do not fit; nothing changed.
        """
        return await self._ask(CONFIGURE, configuration)

    async def worker(
        self,
        connection: int,
        *,
        role: str,
        node: str | None = None,
        keys: list[int] | None = None,
        rate: int | None = None,
    ) -> None:
        """Give guard one end of a SEQPACKET pair for a worker.

        Args:
            connection: the descriptor; guard gets a copy.
            role: "edge" or "egress"; an egress takes no other argument.
            node: whose ticket keys this worker gets.
            keys: the key numbers that it may use; None for every key of the configuration in force.
            rate: most signatures in a second.
        """
        rights: dict[str, Any] = {"role": role}
        if role == "edge":
            rights |= {"node": node, "keys": keys, "rate": rate}
        await self._ask(WORKER, rights, descriptors=[connection])

    async def custodian(
        self, connection: int, *, number: int, hardware: str, keys: list[dict[str, Any]], pin: str | None
    ) -> None:
        """Introduce a custodian, or a restarted one under its old number.

        Args:
            connection: guard's end of its SEQPACKET pair; guard gets a copy.
            number: 0 to 15.
            hardware: the token's URI, or "tpm"; a sealed PIN goes only to the one that it names.
            keys: `{"id": the custodian's number of the key, "name": what certificates call it}`.
            pin: name of the sealed secret that holds the PIN.
        """
        content = {"id": number, "hardware": hardware, "keys": keys, "pin": pin}
        await self._ask(CUSTODIAN, content, descriptors=[connection])

    async def csr(self, name: str) -> str:
        """A certificate request in PEM for the sealed names of this key.

        Raises:
            SealedRulesError: no such key, or it was sealed without names or without the role csr.
        """
        return str((await self._ask(CSR, {"key": name}))["pem"])

    async def status(self) -> dict[str, Any]:
        """Counters, whether guard is locked, and how memory is protected."""
        return await self._ask(STATUS, {})

    async def drop(self) -> None:
        """Have guard wipe every secret, forget the configuration and close the worker sockets."""
        await self._ask(DROP, {})

    def close(self) -> None:
        """Close the socket: guard ends."""
        if self._reader is not None:
            self._reader.cancel()
        self._fail_all()
        self._socket.close()

    async def _ask(
        self,
        operation: int,
        content: dict[str, Any],
        *,
        descriptors: list[int] | None = None,
        seconds: int = _ANSWER_SECONDS,
    ) -> dict[str, Any]:
        if self._gone:
            raise _gone()
        loop = asyncio.get_running_loop()
        if self._reader is None:
            self._reader = loop.create_task(self._receive())
        number = next(self._numbers) & 0xFFFFFFFF
        waiting: asyncio.Future[Reply] = loop.create_future()
        self._waiting[number] = waiting
        try:
            async with asyncio.timeout(seconds):
                await self._send(encode(operation, number, content), descriptors or [])
                reply = await waiting
        except TimeoutError as error:
            raise UnavailableError(f"guard did not answer within {seconds} s") from error
        finally:
            del self._waiting[number]
        return reply.unwrap(operation)

    async def _send(self, datagram: bytes, descriptors: list[int]) -> None:
        sent = 0
        # One at a time: the event loop knows one waiting writer for each socket.
        async with self._sending:
            while not sent:
                try:
                    sent = socket.send_fds(self._socket, [datagram], descriptors)
                except BlockingIOError:
                    await self._writable()
                except OSError as error:
                    raise _gone() from error

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._socket, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._socket)

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while datagram := await loop.sock_recv(self._socket, MAX_CONTROL_BYTES + 1):
                reply = decode(datagram)
                waiting = self._waiting.get(reply.request_id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)
        except (OSError, UnlatchError):
            # A socket that broke and a guard that talks nonsense are the same to those who wait: no answer.
            pass
        finally:
            self._fail_all()

    def _fail_all(self) -> None:
        self._gone = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(_gone())


def _gone() -> UnavailableError:
    return UnavailableError("guard is not running", hint="its last lines in the log say why")
