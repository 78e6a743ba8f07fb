"""unlatch exec: opens a sealed file and becomes a program that gets its secrets."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from unlatch.errors import ConfigError, UnlatchError, UsageError
from unlatch.tools.open import asking

if TYPE_CHECKING:
    from unlatch.bootstrap.opening import Opened
    from unlatch.memguard.credentials import Folder

OWN_FAILURE, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
"""Exit codes as env(1), timeout(1) and docker have them; every other one is the program's."""
_ENTRY = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,255}\Z")
_NAME_OF_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,6})\Z")
EFFECTIVE = os.access in os.supports_effective_ids
_STDIN, _FIRST_FREE = 0, 3


@dataclass(frozen=True, slots=True)
class Plan:
    """Which secret goes where: file by file name, secret by descriptor, secret by variable."""

    files: Mapping[str, str]
    descriptors: Mapping[int, str]
    variables: Mapping[str, str]

    @property
    def names(self) -> set[str]:
        """Every secret that is wanted."""
        return {*self.files.values(), *self.descriptors.values(), *self.variables.values()}


class _Exec(click.Command):
    """Ends with 125 where it fails itself."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **more)
        except click.UsageError as error:
            raise _coded(
                UsageError(error.format_message(), hint="unlatch exec --help"), OWN_FAILURE
            ) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UnlatchError as error:
            if error.exit_code not in (NOT_EXECUTABLE, NOT_FOUND):
                error.exit_code = OWN_FAILURE
            raise


@click.command(name="exec", cls=_Exec)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME[=ENTRY]",
    help="Hand a secret as file ENTRY of $CREDENTIALS_DIRECTORY (default: every secret, under its own name).",
)
@click.option(
    "--fd",
    "descriptors",
    multiple=True,
    metavar="NAME=N",
    help="Hand a secret by descriptor N, to be read once.",
)
@click.option(
    "--insecure-env",
    "variables",
    multiple=True,
    metavar="NAME=VAR",
    help="Hand a secret by an environment variable: others of this user can read it, and its children inherit it.",
)
@asking
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND…")
def command(
    file: Path,
    secrets: tuple[str, ...],
    descriptors: tuple[str, ...],
    variables: tuple[str, ...],
    argv: tuple[str, ...],
    **how: Any,
) -> None:
    """Open a sealed file and become a program that gets its secrets.

    Files lie in a ramfs that only the program sees, and are gone when it has ended. Signals and exit code are the
    program's own; 125: unlatch failed, 126: it cannot be executed, 127: it was not found. Example: unlatch exec pay.jwe --secret
    tls=key.pem -- nginx -c /etc/nginx/pay.conf
    """
    from unlatch.bootstrap import files
    from unlatch.bootstrap.opening import announced, open_by_hand, unknown_name
    from unlatch.memguard import credentials
    from unlatch.memguard.posture import process

    program = find_program(argv[0], os.environ.get("PATH", os.defpath))
    sealed = files.read_sealed(file)
    plan = read_plan(secrets, descriptors, variables, known=announced(sealed))
    if (known := announced(sealed)) is not None:
        for name in sorted(plan.names - set(known)):
            raise unknown_name(name, known)
    process.close_memory()
    wants_files = bool(plan.files) or not plan.names
    folder = credentials.folder_in_memory(os.environ) if wants_files else None
    if folder is not None and not folder.is_own_mount:
        _tell_of_swap()
    opened = open_by_hand(file, sealed, **how)
    if not plan.names:
        plan = read_plan(opened.names, (), (), known=None)
    become(program, argv, opened, plan, folder)


def read_plan(
    secrets: Iterable[str],
    descriptors: Iterable[str],
    variables: Iterable[str],
    *,
    known: tuple[str, ...] | None,
) -> Plan:
    """Read the options; without any, every known secret is a file of its own name.

    Raises:
        UsageError: one is malformed, or two want the same place.
    """
    secrets, descriptors, variables = tuple(secrets), tuple(descriptors), tuple(variables)
    if not (secrets or descriptors or variables):
        secrets = known or ()
    files: dict[str, str] = {}
    for text in secrets:
        name, equals, entry = text.partition("=")
        _set(files, entry if equals else name, name, option="--secret", valid=_ENTRY, what="a file name")
    numbers: dict[str, str] = {}
    for text in descriptors:
        name, _, number = text.partition("=")
        _set(numbers, number, name, option="--fd", valid=_NUMBER, what="a descriptor")
    for number in numbers:
        if _STDIN < int(number) < _FIRST_FREE:
            raise UsageError(
                f"--fd: descriptor {number} is the program's output",
                hint="3 or above, or 0 for standard input",
            )
    named: dict[str, str] = {}
    for text in variables:
        name, _, variable = text.partition("=")
        _set(named, variable, name, option="--insecure-env", valid=_NAME_OF_VARIABLE, what="a variable")
    return Plan(files, {int(number): name for number, name in numbers.items()}, named)


def _set(
    places: dict[str, str], place: str, name: str, *, option: str, valid: re.Pattern[str], what: str
) -> None:
    if not name or not valid.match(place):
        raise UsageError(f"{option} {name}={place}: {place!r} is not {what}", hint="unlatch exec --help")
    if place in places:
        raise UsageError(f"{option}: {place} is given twice", hint="give each secret a place of its own")
    places[place] = name


def find_program(name: str, path: str) -> str:
    """Find a program as the shell does, before anyone is asked for anything.

    Raises:
        ConfigError: not there (127), or not executable (126).
    """
    candidates = (
        [Path(name)] if "/" in name else [Path(folder or ".") / name for folder in path.split(os.pathsep)]
    )
    found = [one for one in candidates if _is_there(one)]
    for candidate in found:
        if candidate.is_file() and os.access(candidate, os.X_OK, effective_ids=EFFECTIVE):
            return str(candidate)
    if found:
        raise _coded(ConfigError(f"cannot execute {found[0]}"), NOT_EXECUTABLE)
    where = "" if "/" in name else " in PATH"
    raise _coded(ConfigError(f"there is no {name}{where}", hint="write the command after --"), NOT_FOUND)


def become(
    program: str, argv: tuple[str, ...], opened: Opened, plan: Plan, folder: Folder | None
) -> NoReturn:
    """Put every secret in its place and become the program.

    Raises:
        UnlatchError: a secret has no place, or the program cannot be executed.
    """
    from unlatch.memguard import credentials

    environ = dict(os.environ)
    if folder is not None:
        for entry, name in plan.files.items():
            folder.put(entry, opened.secret(name))
        folder.close()
        environ[credentials.VARIABLE] = str(folder.path)
    ends = {
        number: credentials.descriptor_of(opened.secret(name)) for number, name in plan.descriptors.items()
    }
    hidden = {variable: opened.secret(name) for variable, name in plan.variables.items()}
    sys.stdout.flush()
    sys.stderr.flush()
    credentials.place(ends)
    try:
        credentials.become(program, argv, environ, hidden)
    except FileNotFoundError as error:
        raise _coded(
            ConfigError(f"cannot execute {program}: it, or the interpreter that it names, is gone"), NOT_FOUND
        ) from error
    except OSError as error:
        raise _coded(ConfigError(f"cannot execute {program}: {error.strerror}"), NOT_EXECUTABLE) from error


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder of PATH that nobody may look into
        return False


def _coded(error: UnlatchError, code: int) -> UnlatchError:
    error.exit_code = code
    return error


def _tell_of_swap() -> None:
    """Say so where files lie in a tmpfs and the kernel may write it to a disk."""
    with suppress(OSError):
        if len(Path("/proc/swaps").read_text().splitlines()) > 1:
            click.echo(
                "unlatch: warning: files lie in a tmpfs, which this host may swap out: start as root, or use --fd",
                err=True,
            )
