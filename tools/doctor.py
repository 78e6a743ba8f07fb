"""unlatch doctor: looks for what is wrong or weak on this host, and for a key in the memory of servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unlatch.errors import ConfigError, UnlatchError, UsageError

if TYPE_CHECKING:
    from unlatch.bootstrap.sealed import SealedFile
    from unlatch.memguard.custodian.uri import TokenUri
    from unlatch.memguard.doctor.facts import Host
    from unlatch.memguard.doctor.finding import Finding
    from unlatch.proxy.config_file import LoadedConfig

MAX_KEY_BYTES = 64 * 1024
HARDWARE_SECONDS = 20.0
COULD_NOT_LOOK = 22
Answer = list[Any] | dict[str, Any]


@click.command(name="doctor")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE.jwe]…")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    help="A configuration to look at, with its sealed file.",
)
@click.option("--offline", is_flag=True, help="Ask no server, TPM or token.")
@click.option(
    "--find-key", "key", type=click.Path(path_type=Path), help="Look for this private key in memory."
)
@click.option("--token-file", "token", type=click.Path(path_type=Path), help="Look for this token in memory.")
@click.option("--pid", "pids", type=click.IntRange(min=1), multiple=True, help="The process to look through.")
@click.option("--unit", "units", multiple=True, metavar="NAME", help="All processes of a systemd unit.")
@click.option("--tree", is_flag=True, help="With --pid: its descendants too.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
@click.pass_context
def command(
    context: click.Context,
    files: tuple[Path, ...],
    config: Path | None,
    offline: bool,
    key: Path | None,
    token: Path | None,
    pids: tuple[int, ...],
    units: tuple[str, ...],
    tree: bool,
    as_json: bool,
) -> None:
    """Look for what is wrong or weak: this host, a configuration, sealed files, their servers and hardware.

    Exit codes: 0 well, 22 failures, 23 warnings. Nobody is asked for an approval, and nothing is changed.

    With --find-key or --token-file: count the copies of a secret in the memory of any server, by kind of memory. Exit
    codes: 0 none found and everything was read, 20 found, 22 something could not be looked at.
    Example: unlatch doctor --find-key site.key --unit nginx
    """
    if key is None and token is None:
        if pids or units or tree:
            raise UsageError("nothing to look for", hint="--find-key FILE, --token-file FILE")
        context.exit(_examine(config, files, offline=offline, as_json=as_json))
    if files or config is not None or offline:
        raise UsageError("--find-key looks at memory only", hint="leave -c, FILE and --offline out")
    if not pids and not units:
        raise UsageError("no process is named", hint="--pid PID [--tree], --unit NAME")
    context.exit(_find(key, token, pids, units, with_descendants=tree, as_json=as_json))


def _find(
    key: Path | None,
    token: Path | None,
    pids: Sequence[int],
    units: Sequence[str],
    *,
    with_descendants: bool,
    as_json: bool,
) -> int:
    from unlatch.memguard.doctor import find_key, processes
    from unlatch.memguard.posture import process
    from unlatch.memguard.process_memory import NotReadableError

    process.close_memory()
    sought = find_key.Sought.of(
        key=None if key is None else _read(key), token=None if token is None else _stripped(_read(token))
    )
    try:
        everyone = [*pids, *(pid for unit in units for pid in processes.of_unit(unit))]
        answer = find_key.find(sought, list(dict.fromkeys(everyone)), with_descendants=with_descendants)
    except NotReadableError as error:
        error.exit_code = COULD_NOT_LOOK
        raise
    if as_json:
        click.echo(json.dumps(answer.as_json(), indent=2))
    else:
        for line in find_key.lines(answer):
            click.echo(line)
    return answer.exit_code


def _examine(config: Path | None, files: Sequence[Path], *, offline: bool, as_json: bool) -> int:
    from unlatch.memguard.doctor import facts, finding, host

    here = facts.gather(time.time())
    findings = list(host.check(here))
    sealed: list[tuple[Path, frozenset[str] | None]] = [(path, None) for path in files]
    if config is not None:
        loaded, more = _configuration(config, here)
        findings += more
        if loaded is not None:
            unlock = loaded.config.unlock
            sealed.append((loaded.resolve(unlock.bundle), frozenset(unlock.gates)))
            findings += [] if offline else _configured_keys(loaded)
    for path, gates in sealed:
        findings += _sealed_file(path, gates, now=here.now, offline=offline)
    if as_json:
        levels = [one.level for one in findings]
        counts = {"failures": levels.count("failure"), "warnings": levels.count("warning")}
        click.echo(json.dumps({"findings": [one.as_json() for one in findings]} | counts, indent=2))
    else:
        for line in _lines(findings):
            click.echo(_printable(line))
    return finding.exit_code(findings)


def _configuration(path: Path, here: Host) -> tuple[LoadedConfig | None, list[Finding]]:
    """What `unlatch check` says, and what this host lacks for it."""
    from unlatch.memguard.doctor.finding import failure, ok
    from unlatch.proxy import config_file, doctor, users
    from unlatch.proxy.checking import check

    findings: list[Finding] = []
    try:
        findings += (ok(line, str(path)) for line in check(path))
    except UnlatchError as error:
        findings.append(failure(str(error), str(path), error.hint))
    try:
        loaded = config_file.load(path)
    except UnlatchError:
        return None, findings  # told above
    findings += doctor.check(loaded.config, here, where=str(path), processors=os.cpu_count() or 1)
    try:
        findings.append(doctor.users(users.choose_for_this_host(loaded.config.users.model_dump()), "users"))
    except ConfigError as error:
        findings.append(doctor.users(error, "users"))
    return loaded, findings


def _sealed_file(path: Path, gates: frozenset[str] | None, *, now: float, offline: bool) -> Iterator[Finding]:
    from unlatch.bootstrap import doctor, files
    from unlatch.memguard.doctor.finding import failure

    try:
        sealed = files.read_sealed(path)
    except UnlatchError as error:
        yield failure(str(error), str(path), error.hint)
        return
    yield from doctor.check(sealed, str(path), now=now, gates=gates)
    if not offline:
        yield from _servers(sealed, path)
        yield from _hardware(sealed, path)


def _servers(sealed: SealedFile, path: Path) -> Iterator[Finding]:
    from unlatch.bootstrap import doctor, doctor_servers
    from unlatch.bootstrap.pins import tree

    for pin in tree.leaves(sealed.pin):
        if isinstance(pin, tree.TangPin):
            server = doctor_servers.ask(pin.url)
            yield from doctor.check_server(pin, server, str(path), now=time.time())


def _hardware(sealed: SealedFile, path: Path) -> Iterator[Finding]:
    """Ask TPM and tokens where the file needs them, in a process of its own: a module may hang or die."""
    from unlatch.bootstrap import doctor
    from unlatch.bootstrap.pins import tree

    for pin in tree.leaves(sealed.pin):
        if isinstance(pin, tree.Tpm2Pin):
            yield from _tpm(partial(doctor.check_tpm, pin), str(path))
        elif isinstance(pin, tree.Pkcs11Pin):
            yield from _token(pin.uri, str(path))


def _configured_keys(loaded: LoadedConfig) -> Iterator[Finding]:
    """The same for the keys in hardware that certificates name."""
    from unlatch.memguard.custodian.keyfile import TokenKey, find
    from unlatch.memguard.doctor.finding import ok
    from unlatch.proxy.wiring import hardware_references

    def answers(_banks: object, where: str) -> Finding:
        return ok(f"the TPM of {where} answers", "TPM")

    try:
        references = hardware_references(loaded)
    except ConfigError:
        return  # told by the configuration's own check
    for name, reference in references.items():
        key = find(reference)
        if isinstance(key, TokenKey):
            yield from _token(key.uri, name)
        elif key is not None:
            yield from _tpm(answers, name, tcti=loaded.config.hardware.tcti)


def _tpm(check: Callable[[Any, str], Finding], where: str, *, tcti: str | None = None) -> Iterator[Finding]:
    from unlatch.memguard.custodian import tss
    from unlatch.memguard.doctor.finding import failure, warning

    try:
        device = tss.device(tcti)
        if device == f"device:{tss.RAW_DEVICE}":
            yield warning(
                "there is no resource manager: one program at a time can use the TPM",
                device,
                "boot a kernel that offers /dev/tpmrm0 (4.12 or newer)",
            )
        answer = _told("tpm", "list", "--json", tcti=device)
        assert isinstance(answer, dict)
        yield check(answer["banks"], where)
    except UnlatchError as error:
        yield failure(f"{where} needs hardware: {error}", "TPM", error.hint)


def _token(uri: TokenUri, where: str) -> Iterator[Finding]:
    from unlatch.bootstrap import doctor
    from unlatch.memguard.custodian import modules
    from unlatch.memguard.doctor.finding import failure

    try:
        modules.find_module(uri)
        answer = _told("hsm", "list", "--json", "--", uri.public_text)
        assert isinstance(answer, list)
        yield from doctor.check_token(uri, answer, where)
    except UnlatchError as error:
        yield failure(f"{where} needs hardware: {error}", "token", error.hint)


def _told(*arguments: str, tcti: str | None = None) -> Answer:
    """What another command of ours says in JSON.

    Raises:
        ConfigError: it failed, or did not end in time.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "unlatch", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=HARDWARE_SECONDS, check=False,
            env=os.environ | ({} if tcti is None else {"UNLATCH_TCTI": tcti}),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"no answer within {HARDWARE_SECONDS:.0f} s", hint=f"does `unlatch {arguments[0]} list` hang too?"
        ) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").splitlines()
        words = [line.partition(": ")[2].partition(": ")[2] for line in said if line.startswith("unlatch: ")]
        raise ConfigError(
            words[0] if words else f"it ended with {done.returncode}",
            hint=words[1] if len(words) > 1 else None,
        )
    answer: Answer = json.loads(done.stdout)
    return answer


def _lines(findings: Iterable[Finding]) -> Iterator[str]:
    for one in findings:
        yield f"{one.level:<8} {one.where}: {one.what}"
        if one.next:
            yield f"         next: {one.next}"


def _printable(text: str) -> str:
    """Texts from headers and tokens are not ours: no escape sequence of theirs reaches the terminal."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read: {error.strerror}, {path}") from error
    if len(data) > MAX_KEY_BYTES:
        raise ConfigError(f"{path} has more than {MAX_KEY_BYTES} bytes", hint="is it a key or a token?")
    return data


def _stripped(data: bytes) -> bytes:
    """Without the newline that an editor leaves."""
    return data.removesuffix(b"\n").removesuffix(b"\r")
