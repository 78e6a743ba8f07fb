"""The local approval hook: any executable that may say no before anyone is asked.

Contract (docs/hooks.md): JSON on standard input; exit 0 goes on, 10 refuses, anything else is a failure and refuses
too. A hook that goes on may write one JSON object to standard output, `{"reason": …, "claims": {…}}`. Its time and
output are bounded; its environment holds nothing of ours but PATH, LANG and UNLATCH_HOOK.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from unlatch.errors import HookRefusedError

# A reason and a few claims; the gate takes 4 KiB of claims in all.
MAX_OUTPUT_BYTES = 4096
# What a hook says on standard error goes to the log, but no flood of it.
MAX_MESSAGE_BYTES = 16384
REFUSED = 10
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "UNLATCH_HOOK": "1",
}


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """What a hook that goes on may add to the request."""

    reason: str | None = None
    claims: Mapping[str, str] = field(default_factory=dict)


def run_hook(
    argv: Sequence[str],
    facts: Mapping[str, object],
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> HookAnswer:
    """Run the hook and give what it adds.

    Raises:
        HookRefusedError: it refused, failed, took too long, wrote too much, or wrote something else than agreed.
    """
    name = argv[0]
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise HookRefusedError(
            f"the approval hook cannot be started: {error.strerror}, {name}",
            hint="unlock.hook is a list: a program and its arguments",
        ) from error
    with process:
        try:
            output, message = _exchange(process, json.dumps(facts).encode(), clock() + seconds, clock)
            code = process.wait(timeout=max(seconds, 0.1))
        except _LimitError as error:
            raise HookRefusedError(
                f"the approval hook {error}, {name}", hint="its limits are in docs/hooks.md"
            ) from None
        except subprocess.TimeoutExpired:
            raise HookRefusedError(
                f"the approval hook closed its output and went on running, {name}"
            ) from None
        finally:
            _end(process)
    if code == REFUSED:
        raise HookRefusedError(f"the approval hook refused: {_printable(message) or 'no reason given'}")
    if code != 0:
        raise HookRefusedError(
            f"the approval hook failed with {_status(code)}: {_printable(message) or 'no message'}, {name}"
        )
    return _parse(output, name)


class _LimitError(Exception):
    """The hook went over one of its limits."""


def _exchange(
    process: subprocess.Popen[bytes], question: bytes, deadline: float, clock: Callable[[], float]
) -> tuple[bytes, bytes]:
    """Feed standard input and read both outputs, whichever is ready, until both end."""
    assert process.stdin
    assert process.stdout
    assert process.stderr
    limits = {process.stdout.fileno(): MAX_OUTPUT_BYTES, process.stderr.fileno(): MAX_MESSAGE_BYTES}
    collected = {descriptor: bytearray() for descriptor in limits}
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        os.set_blocking(process.stdin.fileno(), False)
        while selector.get_map():
            left = deadline - clock()
            if left <= 0:
                raise _LimitError("did not answer in time")
            for key, _ in selector.select(left):
                if key.fileobj is process.stdin:
                    question = _feed(process, question)
                    if not question:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                collected[key.fd] += chunk
                if len(collected[key.fd]) > limits[key.fd]:
                    raise _LimitError(f"wrote more than {limits[key.fd]} bytes")
    output, message = collected.values()
    return bytes(output), bytes(message)


def _feed(process: subprocess.Popen[bytes], question: bytes) -> bytes:
    assert process.stdin
    try:
        return question[os.write(process.stdin.fileno(), question) :]
    except BlockingIOError:
        return question
    except BrokenPipeError:  # a hook need not read what it is told
        return b""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the hook running: it has its own session and so its own process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _parse(output: bytes, name: str) -> HookAnswer:
    if not output.strip():
        return HookAnswer()
    try:
        content = json.loads(output)
    except (ValueError, RecursionError):
        raise HookRefusedError(f"the approval hook wrote something else than JSON, {name}") from None
    if not isinstance(content, dict) or not content.keys() <= {"reason", "claims"}:
        raise HookRefusedError(f"the approval hook wrote something else than reason and claims, {name}")
    reason, claims = content.get("reason"), content.get("claims", {})
    if not (reason is None or (isinstance(reason, str) and len(reason) <= 200)):
        raise HookRefusedError(f"the approval hook's reason is not text of at most 200 characters, {name}")
    if not isinstance(claims, dict) or not all(isinstance(value, str) for value in claims.values()):
        raise HookRefusedError(f"the approval hook's claims are not a mapping of text, {name}")
    return HookAnswer(reason=reason, claims=claims)


def _status(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _printable(message: bytes) -> str:
    text = message.decode(errors="replace").strip()
    return "".join(character if character.isprintable() else " " for character in text)[:400]
