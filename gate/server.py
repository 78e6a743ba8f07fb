"""`gate serve`: binds, starts keyholder, runs decider. When either ends, the other ends too: a half gate is no gate."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from unlatch.errors import ConfigError, UnavailableError
from unlatch.gate import durable
from unlatch.gate.admin import SERVING_FILE
from unlatch.gate.confine import confine_decider, keys_of_hardware
from unlatch.gate.database import DECIDER, Ledger, database_url, migrate, open_engine
from unlatch.gate.docket import Docket
from unlatch.gate.keyholder_client import KeyholderClient, start_keyholder, why_it_ended
from unlatch.gate.machines import Machines
from unlatch.gate.office import Office
from unlatch.gate.one_write import OneWriteProtocol
from unlatch.gate.people import People
from unlatch.gate.sessions import Sessions

EXPIRY_SECONDS = 1.0
MAX_CONNECTIONS = 2048  # for each listener; more get 503
MAX_DESCRIPTORS = 8192
MAX_PORT = 65535
DRAIN_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Options:
    """How to serve. Public addresses (`url`, `people_url`) that are not given are made from the listeners'."""

    folder: Path
    listen: str
    people: str
    url: str | None = None
    people_url: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


def serve(options: Options) -> int:
    """Run until a signal or until keyholder ends; gives the exit code."""
    os.umask(0o077)
    _raise_descriptors()
    logging.getLogger("uvicorn").addHandler(logging.NullHandler())
    with bind(options.listen) as machines, bind(options.people) as people:
        origin = _origin(options.url, machines, options)
        people_origin = _origin(options.people_url, people, options)
        process, channel = start_keyholder(options.folder, origin=origin, people=people_origin)
        try:
            hidden = [options.folder / "keyholder", *keys_of_hardware()]
            log("confined", landlock=confine_decider(options.folder / DECIDER, hidden=hidden))
            return asyncio.run(_Decider(options, channel, origin, people_origin).run(machines, people))
        except UnavailableError as error:
            raise why_it_ended(process) or error from error
        finally:
            channel.close()
            process.wait()
            (options.folder / DECIDER / SERVING_FILE).unlink(missing_ok=True)


def _raise_descriptors() -> None:
    """Every held request is a descriptor, and shells give 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(MAX_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind(address: str) -> socket.socket:
    """A bound listening socket.

    Raises:
        ConfigError: not HOST:PORT, or the address is taken.
    """
    host, separator, port = address.rpartition(":")
    # getaddrinfo would take 99999 for 99999 modulo 65536.
    if not separator or not port.isdecimal() or int(port) > MAX_PORT:
        raise ConfigError(f"{address} is no HOST:PORT", hint="for example 127.0.0.1:7070, or [::1]:7070")
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(found[4][:2], family=found[0], backlog=512)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {address}: {error}") from error
    listener.setblocking(False)
    return listener


class _Decider:
    """The parts of decider, wired."""

    def __init__(self, options: Options, channel: socket.socket, origin: str, people: str) -> None:
        self._options, self._channel = options, channel
        self._origin, self._people_origin = origin, people
        self._stopping = asyncio.Event()

    async def run(self, machines: socket.socket, people: socket.socket) -> int:
        engine = open_engine(database_url(self._options.folder))
        ledger = Ledger(engine)
        keyholder = await KeyholderClient.connect(self._channel)
        try:
            await migrate(engine)
            await ledger.load()
            docket = Docket(ledger, keyholder, now=time.time, monotonic=time.monotonic, tell=log)
            app = Machines(
                docket, keyholder, people=self._people_origin, now=time.time, monotonic=time.monotonic
            )
            office = Office(ledger, keyholder, docket, learn=app.learn)
            await office.start()
            await docket.checkpoint()  # refuses a database older than the last signed checkpoint
            await docket.resume()
            sessions = Sessions(
                ledger, secret=secrets.token_bytes(32), now=time.time, random_bytes=secrets.token_bytes
            )
            desk = People(
                docket,
                ledger,
                sessions,
                office,
                origin=self._people_origin,
                now=time.time,
                monotonic=time.monotonic,
            )
            servers = [self._server(app), self._server(desk.app)]
            return await self._serve(servers, [machines, people], docket, app, keyholder)
        finally:
            await keyholder.close()
            await ledger.close()

    async def _serve(
        self, servers: list[uvicorn.Server], listeners: list[socket.socket], docket: Docket, app: Machines,
        keyholder: KeyholderClient,
    ) -> int:  # fmt: skip
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._announce(listeners)
        running = [
            asyncio.create_task(server.serve([one])) for server, one in zip(servers, listeners, strict=True)
        ]
        ends = [asyncio.create_task(self._stopping.wait()), asyncio.create_task(keyholder.gone.wait())]
        ticker = asyncio.create_task(_expire(docket))
        await asyncio.wait([*running, *ends, ticker], return_when=asyncio.FIRST_COMPLETED)
        log("stopping", keyholder="gone" if keyholder.gone.is_set() else "there")
        app.stopping = True
        docket.wake_all()
        for server in servers:
            server.should_exit = True
        await asyncio.wait(running, timeout=DRAIN_SECONDS + 1)
        for task in (*ends, ticker):
            task.cancel()
        await asyncio.gather(*running, *ends, ticker, return_exceptions=True)
        return 1 if keyholder.gone.is_set() else 0

    def _server(self, app: Any) -> uvicorn.Server:
        config = uvicorn.Config(
            app, http=OneWriteProtocol, ws="none", loop="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, date_header=True, timeout_keep_alive=75, timeout_graceful_shutdown=DRAIN_SECONDS,
            proxy_headers=False, limit_concurrency=MAX_CONNECTIONS, ssl_certfile=self._options.tls_cert, ssl_keyfile=self._options.tls_key,
        )  # fmt: skip
        return _QuietServer(config)

    def _announce(self, listeners: list[socket.socket]) -> None:
        facts = {
            "pid": os.getpid(),
            "machines": self._origin,
            "people": self._people_origin,
            "listen": [_address(one) for one in listeners],
        }
        durable.replace(self._options.folder / DECIDER / SERVING_FILE, json.dumps(facts).encode())
        log("listening", **facts)


class _QuietServer(uvicorn.Server):
    """Leaves signals to the process that runs two servers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """No handlers here."""
        yield


async def _expire(docket: Docket) -> None:
    while True:
        await asyncio.sleep(EXPIRY_SECONDS)
        await docket.expire()


def log(event: str, **fields: object) -> None:
    """One JSON line on standard error. Never a code, a point or a secret."""
    record = {"time": round(time.time(), 3), "process": "decider", "event": event, **fields}
    print(json.dumps(record), file=sys.stderr, flush=True)  # noqa: T201 - the log


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _origin(given: str | None, listener: socket.socket, options: Options) -> str:
    """The public address. On loopback it is `localhost`: passkeys and people need a name."""
    if given:
        return given.rstrip("/")
    host, port = listener.getsockname()[:2]
    scheme = "https" if options.tls_cert else "http"
    if host in ("127.0.0.1", "::1"):
        host = "localhost"
    elif host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        raise ConfigError(
            "listening on every address needs --url and --people-url", hint="the name that clients use"
        )
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
