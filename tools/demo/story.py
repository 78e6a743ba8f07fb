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
from dataclasses import dataclass
from types import FrameType

import click

from unlatch.tools.demo.checks import Checks
from unlatch.tools.demo.hardware_checks import HardwareChecks
from unlatch.tools.demo.stage import Stage
from unlatch.tools.demo.table import Table

WAIT_SECONDS = 280.0
CODE = re.compile(r"code ([A-Z]{4}-[A-Z]{4})")


def tell(*, auto: bool, step_by_step: bool, hsm: bool = False, tpm: bool = False) -> int:
    """Play it; gives 0 when every check held.

    Args:
        auto: approve with the throw-away key, as where there is no terminal.
        step_by_step: ask before each attack.
        hsm: with the site's key in a software token.
        tpm: with a software TPM that must agree too.
    """
    signal.signal(signal.SIGTERM, _as_interrupt)
    auto = auto or not (sys.stdin.isatty() and sys.stderr.isatty())
    table = Table()
    times: list[tuple[str, float]] = []
    with Stage(hsm=hsm, tpm=tpm) as stage:

        def scene(title: str, play: Callable[[], object]) -> None:
            started = time.monotonic()
            play()
            times.append((title, time.monotonic() - started))
            say(f"{title}: {time.monotonic() - started:.1f} s")

        def attack(title: str, play: Callable[[], object]) -> None:
            if not step_by_step or auto or click.confirm(f"attack: {title}. Try it?", default=True, err=True):
                scene(title, play)

        Play(stage, Checks(stage, table), scene, attack).all(auto=auto)
    click.echo(table.render())
    click.echo("times: " + ", ".join(f"{title} {seconds:.1f} s" for title, seconds in times))
    return 0 if table.holds else 1


Act = Callable[[str, Callable[[], object]], None]


@dataclass(frozen=True, slots=True)
class Play:
    """The order of scenes and attacks."""

    stage: Stage
    checks: Checks
    scene: Act
    attack: Act

    def all(self, *, auto: bool) -> None:
        """From nothing to the verified audit log."""
        self._until_locked()
        hardware = HardwareChecks(self.stage, self.checks.table, self.checks)
        self._until_serving(hardware, auto=auto)
        self._attacks()
        self._hardware_attacks(hardware)
        self.attack("scan the memory of every process", self.checks.memory)
        self.scene("audit verified", self.checks.audit)

    def _until_locked(self) -> None:
        stage = self.stage
        self.scene("gate started", stage.start_gate)
        if stage.hsm or stage.tpm:
            parts = [name for name, is_there in (("token", stage.hsm), ("TPM", stage.tpm)) if is_there]
            self.scene(f"{' and '.join(parts)} made, keys made inside", stage.start_hardware)
        sealed = "PIN and token" if stage.hsm else "key and token"
        self.scene(f"{sealed} sealed", lambda: stage.seal(stage.trust_gate()))
        self.scene("proxy started, locked", stage.start_proxy)

    def _until_serving(self, hardware: HardwareChecks, *, auto: bool) -> None:
        stage = self.stage
        self.attack("connect to the locked proxy", self.checks.connect_before_approval)
        line = stage.waiting_line()
        say(line)
        if stage.hsm:
            self.scene("token looked at", hardware.token_before_approval)
        if stage.tpm:
            self.scene("card read", hardware.host_on_card)
        self.attack("approve with a wrong code", self.checks.wrong_code)
        self.scene("approved", lambda: approve(stage, line, auto=auto))
        stage.event("serving", seconds=WAIT_SECONDS)
        self.scene("serving", self.checks.serves)
        if stage.hsm:
            self.scene("token looked at again", hardware.token_after_approval)
            self.scene("handshakes counted", hardware.handshakes)
        self.scene("token injected", self.checks.token_arrives)

    def _attacks(self) -> None:
        checks = self.checks
        self.attack("spend the token on another path", checks.token_outside_its_paths)
        self.attack("replay the answer that was heard on the wire", checks.answer_replayed)
        self.attack("let edge sign other things", checks.taken_over_edge)
        self.attack("get the token sent elsewhere", checks.taken_over_egress)
        self.attack("kill -9 edge", checks.kill_edge)

    def _hardware_attacks(self, hardware: HardwareChecks) -> None:
        if self.stage.hsm:
            self.attack("take the key out of the token", hardware.key_stays)
            self.attack("kill -9 custodian", hardware.kill_custodian)
        if self.stage.tpm:
            self.attack("steal the file and be approved", hardware.approved_thief)
            self.attack("boot another kernel", hardware.another_kernel)


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
