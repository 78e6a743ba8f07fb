"""The demo, scene by scene."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable
from types import FrameType

import click

from unlatch.tools.demo.checks import Checks
from unlatch.tools.demo.stage import Stage
from unlatch.tools.demo.table import Table

WAIT_SECONDS = 280.0
CODE = re.compile(r"code ([A-Z]{4}-[A-Z]{4})")


def tell(*, auto: bool, step_by_step: bool) -> int:
    """Play it; gives 0 when every check held."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    auto = auto or not (sys.stdin.isatty() and sys.stderr.isatty())
    table = Table()
    times: list[tuple[str, float]] = []
    with Stage() as stage:
        checks = Checks(stage, table)

        def scene(title: str, play: Callable[[], object]) -> None:
            started = time.monotonic()
            play()
            times.append((title, time.monotonic() - started))
            say(f"{title}: {time.monotonic() - started:.1f} s")

        def attack(title: str, play: Callable[[], object]) -> None:
            if not step_by_step or auto or click.confirm(f"attack: {title}. Try it?", default=True, err=True):
                scene(title, play)

        scene("gate started", stage.start_gate)
        scene("key and token sealed", lambda: stage.seal(stage.trust_gate()))
        scene("proxy started, locked", stage.start_proxy)
        attack("connect to the locked proxy", checks.connect_before_approval)
        line = stage.waiting_line()
        say(line)
        attack("approve with a wrong code", checks.wrong_code)
        scene("approved", lambda: approve(stage, line, auto=auto))
        stage.event("serving", seconds=WAIT_SECONDS)
        scene("serving", checks.serves)
        scene("token injected", checks.token_arrives)
        attack("spend the token on another path", checks.token_outside_its_paths)
        attack("replay the answer that was heard on the wire", checks.answer_replayed)
        attack("let edge sign other things", checks.taken_over_edge)
        attack("get the token sent elsewhere", checks.taken_over_egress)
        attack("kill -9 edge", checks.kill_edge)
        attack("scan the memory of every process", checks.memory)
        scene("audit verified", checks.audit)
    click.echo(table.render())
    click.echo("times: " + ", ".join(f"{title} {seconds:.1f} s" for title, seconds in times))
    return 0 if table.holds else 1


def say(text: str) -> None:
    """A line of the story."""
    click.echo(text, err=True)


def approve(stage: Stage, line: str, *, auto: bool) -> None:
    """With a throw-away key, or by a person in another terminal."""
    match = CODE.search(line)
    assert match
    arguments = ("approve", "--code", match[1], "--key", "mara", "--gate", stage.gate_url)
    if not auto:
        config = stage.cast.environment["XDG_CONFIG_HOME"]
        say("in another terminal, an operator runs:")
        say(
            f"  cd {stage.folder} && XDG_CONFIG_HOME={config} {sys.executable} -m unlatch {' '.join(arguments)}"
        )
        if not wait_for_key_or_approval(stage):
            return
    stage.cast.run(*arguments)


def wait_for_key_or_approval(stage: Stage) -> bool:
    """Whether the key `a` was pressed before somebody approved."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    deadline = time.monotonic() + WAIT_SECONDS
    try:
        tty.setcbreak(descriptor)  # before anybody is asked to press: the change discards what was typed
        say("or press a to approve here with the same throw-away key")
        while time.monotonic() < deadline:
            if (stage.folder / "proxy.log").read_text().count('"event": "serving"'):
                return False
            if select.select([descriptor], [], [], 0.2)[0] and os.read(descriptor, 1) in b"aA":
                return True
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
    return False


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
