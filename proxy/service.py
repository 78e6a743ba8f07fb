"""`unlatch serve`: the supervisor with its signals, admin socket and health address."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from unlatch.errors import RefusedError, UnlatchError
from unlatch.proxy.admin import serve_admin
from unlatch.proxy.health import serve_health
from unlatch.proxy.log import log
from unlatch.proxy.notify import notify
from unlatch.proxy.supervisor import Supervisor


def serve(path: Path) -> None:
    """Run until a signal; raises the error whose exit code the process ends with."""
    asyncio.run(_serve(path))


async def _serve(path: Path) -> None:
    supervisor = Supervisor(path)
    admin = supervisor.loaded.config.admin
    servers = [await serve_admin(supervisor, supervisor.loaded.resolve(admin.socket))]
    try:
        if admin.http is not None:
            servers.append(await serve_health(admin.http, lambda: supervisor.state))
        _on_signals(supervisor)
        log("started", config=str(path), digest=supervisor.loaded.digest, addresses=supervisor.addresses)
        code = await supervisor.run()
    finally:
        for server in servers:
            server.close()
        supervisor.loaded.resolve(admin.socket).unlink(missing_ok=True)
    if code:
        assert supervisor.failure
        failure = RefusedError(supervisor.failure.message, hint=supervisor.failure.hint)
        failure.exit_code = code
        raise failure


def _on_signals(supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(_reload(supervisor))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, reload)


async def _reload(supervisor: Supervisor) -> None:
    notify("RELOADING=1")
    try:
        await supervisor.reload()
    except UnlatchError as error:
        log("reload refused", message=str(error), hint=error.hint)
    finally:
        notify("READY=1")
