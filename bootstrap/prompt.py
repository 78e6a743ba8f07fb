"""Asking for a secret at the terminal, without echo."""

from __future__ import annotations

import os
import sys

from unlatch.errors import UsageError
from unlatch.memguard._native import Secret

MAX_ANSWER_BYTES = 64 * 1024


def ask(question: str, *, hint: str) -> Secret:
    """Give one line; it goes from the kernel straight to locked memory.

    Raises:
        UsageError: there is no terminal; `hint` says what to do instead.
    """
    import termios

    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise UsageError("no terminal to ask at", hint=hint) from error
    try:
        before = termios.tcgetattr(terminal)
        quiet = termios.tcgetattr(terminal)
        quiet[3] &= ~termios.ECHO
        sys.stderr.flush()
        os.write(terminal, question.encode())
        termios.tcsetattr(terminal, termios.TCSAFLUSH, quiet)
        try:
            return Secret.read_line_fd(terminal, MAX_ANSWER_BYTES)
        finally:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
            os.write(terminal, b"\n")
    finally:
        os.close(terminal)
