"""Every error of unlatch, by what the caller can do about it.

UnlatchError
├── RefusedError        a check said no: do not retry
├── UnavailableError    no answer: retrying may help
└── ConfigError         a person must change something

Each leaf names a fact and carries its exit code (docs/operations.md). A message says what was
expected, what came and where; `hint` says the next step. Neither ever holds a secret, a point or a code.
"""

from __future__ import annotations


class UnlatchError(Exception):
    """Root of the tree. `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class RefusedError(UnlatchError):
    """A check said no. Asking again gives the same answer."""


class UnavailableError(UnlatchError):
    """No answer came. Asking again later may help."""

    exit_code = 15


class ConfigError(UnlatchError):
    """A person must change a file, an argument or the machine."""

    exit_code = 21


class UsageError(ConfigError):
    """The command line does not make sense."""

    exit_code = 2


class DeniedError(RefusedError):
    """An operator denied the request."""

    exit_code = 10


class UndecidedError(UnavailableError):
    """Nobody decided in time."""

    exit_code = 11


class PendingError(UnavailableError):
    """The request still waits for a decision (`--no-wait`)."""

    exit_code = 12


class PolicyRefusedError(RefusedError):
    """The gate's policy or a lockdown refuses this request."""

    exit_code = 13


class HookRefusedError(RefusedError):
    """The local approval hook said no, or did not answer as agreed."""

    exit_code = 14


class UnreachableError(UnavailableError):
    """The gate or Tang server did not answer, or not over trusted TLS."""

    exit_code = 15


class UntrustedGateError(RefusedError):
    """An advertisement, receipt or answer is not signed by the pinned key, or is wrong."""

    exit_code = 16


class UnknownKeyError(RefusedError):
    """The gate does not know the key that the file was sealed to."""

    exit_code = 17


class DamagedFileError(RefusedError):
    """The sealed file is damaged, altered, or not one of ours."""

    exit_code = 18


class BusyError(UnavailableError):
    """Too many requests, or a resource that is taken."""

    exit_code = 19


class SealedRulesError(ConfigError):
    """The configuration is wider than the rules sealed inside the file."""


class NotRunningError(UnavailableError):
    """No supervisor answers on the admin socket."""

    exit_code = 3
