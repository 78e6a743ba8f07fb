"""Decider's end of the socket to keyholder: one question at a time, the answers in order."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from unlatch.bootstrap.approval import base64url
from unlatch.errors import UnlatchError
from unlatch.gate import wire
from unlatch.gate.roster import Roster
from unlatch.gate.unwrap import error_with_code
from unlatch.memguard.posture import environment

ANSWER_SECONDS = 30.0  # an answer takes milliseconds and a disk's fsync


class KeyholderClient:
    """Asks keyholder. When its socket ends, or it does not answer in time, `gone` is set and every question fails."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gone: asyncio.Event
    ) -> None:
        self._reader, self._writer = reader, writer
        self._lock = asyncio.Lock()
        self.gone = gone

    @classmethod
    async def connect(cls, channel: socket.socket) -> Self:
        """Take one end of the socket pair."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        reader = asyncio.StreamReader(loop=loop)
        protocol = _Watching(reader, gone)
        transport, _ = await loop.create_unix_connection(lambda: protocol, sock=channel)
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop), gone)

    async def ask(self, question: str, **fields: Any) -> dict[str, Any]:
        """Ask and give the answer.

        Raises:
            KeyholderRefusal: it said no.
            KeyholderGoneError: its process has ended.
        """
        frame = wire.frame({"do": question, **fields})
        # Answers come in order: whoever gives up must not leave his answer to the next question.
        exchange = asyncio.ensure_future(self._exchange(frame))
        exchange.add_done_callback(_take_note)
        return wire.read_answer(wire.read_frame(await asyncio.shield(exchange)))

    async def _exchange(self, frame: bytes) -> bytes:
        async with self._lock:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    self._writer.write(frame)
                    await self._writer.drain()
                    head = await self._reader.readexactly(wire.LENGTH_BYTES)
                    return await self._reader.readexactly(wire.frame_length(head))
            except (OSError, asyncio.IncompleteReadError, wire.WireError) as error:
                self.gone.set()
                self._writer.close()
                raise wire.KeyholderGoneError("keyholder has ended") from error

    async def roster(self) -> tuple[Roster, list[tuple[bytes, str | None]]]:
        """The whole chain of enrolments and what it amounts to, verified here too."""
        links: list[tuple[bytes, str | None]] = []
        while True:
            answer = await self.ask("chain", start=len(links))
            links += [(wire.bytes_of(link, "enrolment"), link["signature"]) for link in answer["links"]]
            if len(links) >= answer["count"] or not answer["links"]:
                return Roster.fold(links), links

    async def checkpoint(self, *, size: int, root: bytes, proof: Sequence[bytes]) -> str:
        """A signed checkpoint of the log."""
        answer = await self.ask(
            "checkpoint",
            size=size,
            root=base64url.encode(root),
            proof=[base64url.encode(step) for step in proof],
        )
        return wire.text_of(answer, "note")

    async def close(self) -> None:
        """End the socket; keyholder ends with it."""
        self._writer.close()


def _take_note(exchange: asyncio.Future[bytes]) -> None:
    """Look at the outcome of an exchange that its asker may have given up: asyncio would complain otherwise."""
    if not exchange.cancelled():
        exchange.exception()


class _Watching(asyncio.StreamReaderProtocol):
    """Notices the end of the socket while nobody reads."""

    def __init__(self, reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
        super().__init__(reader)
        self._gone_event = gone

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone_event.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool:
        self._gone_event.set()
        return bool(super().eof_received())


def start_keyholder(
    folder: Path, *, origin: str, people: str, quiet: bool = False
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start keyholder's process and give our end of its socket.

    Args:
        quiet: keep its few lines of log for `why_it_ended` instead of showing them.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        arguments = [
            "--dir",
            str(folder),
            "--fd",
            str(theirs.fileno()),
            "--origin",
            origin,
            "--people",
            people,
        ]
        process = subprocess.Popen(
            environment.command("unlatch.gate.keyholder_main", *arguments),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE if quiet else None,
            env=environment.hard(environment.hardware_variables()),
        )
    return process, ours


def why_it_ended(process: subprocess.Popen[bytes]) -> UnlatchError | None:
    """The error with which keyholder ended; None where it just ended.

    Its code stays the error's, so that whoever started it knows whether to try again.
    """
    code = process.wait()
    if code in (0, 1) or code < 0:
        return None
    message, hint = "keyholder does not start", "its line above says why"
    if process.stderr is not None:
        try:
            facts = json.loads(process.stderr.read(1 << 16).splitlines()[-1])
            message, hint = str(facts["message"]), facts["hint"]
        except (ValueError, KeyError, IndexError, TypeError):
            hint = "look at the gate's folder"
    return error_with_code(code, message, hint=hint)


def case_fields(*, receipt: bytes, claims: bytes | None, entry: bytes, index: int) -> Mapping[str, Any]:
    """The members of a question that name a request."""
    return {
        "receipt": base64url.encode(receipt),
        "claims": base64url.encode(claims) if claims is not None else None,
        "entry": base64url.encode(entry),
        "index": index,
    }
