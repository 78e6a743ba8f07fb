"""Hands secrets to a program that this process becomes: by files, by a descriptor, by its environment.

Rule 1: no secret becomes a Python object: it goes from locked pages to the kernel.
Rule 2: files lie in memory only (ramfs, else tmpfs), 0400 in a folder of 0700, and the kernel takes them away when the
program has ended, however it ended: nobody's clean-up is relied on where the system lets us mount.
Rule 3: this process becomes the program (execve), so there is nothing in between: signals, exit code, process number,
inherited sockets and the terminal are the program's own. No death signal is set: systemd-run, envconsul and aws-vault
set none either, and with nobody in between there is nobody to outlive.

Sources: mount_namespaces(7), mount(2), execve(2), pipe(7), systemd's "System and Service Credentials".
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from unlatch.errors import ConfigError, UsageError
from unlatch.memguard._native import Secret
from unlatch.memguard.custodian.page import locked

MOUNT_POINT = Path("/run/unlatch-exec")
"""Where each program sees files of its own. A folder that a unit's RuntimeDirectory= removes would take the mount along."""
RAMFS_MAGIC, TMPFS_MAGIC = 0x858458F6, 0x01021994
VARIABLE = "CREDENTIALS_DIRECTORY"

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_MS_REC, _MS_SLAVE = 16384, 1 << 19
_HARDENED = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_LIBC = ctypes.CDLL(None, use_errno=True)
NOWHERE = "hand secrets by --fd NAME=N, or mount a tmpfs and name it in XDG_RUNTIME_DIR"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder for files of one program, in memory.

    `is_own_mount` says that it is a ramfs which only this program and its children see, gone with the last of them;
    else it is a folder of a tmpfs, which may be swapped out, removed when the program ends.
    """

    path: Path
    is_own_mount: bool

    def put(self, name: str, secret: Secret) -> None:
        """Write one file, 0400.

        Raises:
            ConfigError: it cannot be written.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.path / name, flags, 0o400)
            try:
                secret.write_fd(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ConfigError(f"cannot write {self.path / name}: {error.strerror}", hint=NOWHERE) from error

    def close(self) -> None:
        """Let nobody change it any more, where it is a mount of its own."""
        if self.is_own_mount:
            _mount(None, self.path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _HARDENED, None)


def folder_in_memory(environ: Mapping[str, str]) -> Folder:
    """Make the folder: a ramfs in a mount namespace of our own, else a folder of a tmpfs.

    Call it before threads are started. The namespace gets mounts of the host and gives none back.

    Raises:
        ConfigError: this system has neither for us.
    """
    if sys.platform == "linux":
        if _mount_ramfs(MOUNT_POINT):
            return Folder(MOUNT_POINT, is_own_mount=True)
        for parent in _candidates(environ):
            if file_system(parent) in (RAMFS_MAGIC, TMPFS_MAGIC) and os.access(parent, os.W_OK):
                return Folder(_removed_at_end(parent), is_own_mount=False)
    raise ConfigError("there is no place for files that no disk sees", hint=NOWHERE)


def file_system(path: Path) -> int | None:
    """Give the magic number of the file system that a folder is on (statfs(2)); None where there is no such folder."""
    answer = ctypes.create_string_buffer(256)
    if _LIBC.statfs(os.fsencode(path), answer) != 0:
        return None
    return int(struct.unpack_from("@l", answer.raw)[0]) & 0xFFFFFFFF


def descriptor_of(secret: Secret) -> int:
    """Give the reading end of a pipe that holds a secret: never swapped, gone once it is read.

    Raises:
        ConfigError: it does not fit into a pipe here.
    """
    reading, writing = os.pipe()
    try:
        size = len(secret)
        if hasattr(fcntl, "F_SETPIPE_SZ") and size > fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, size)
        os.set_blocking(writing, False)
        secret.write_fd(writing)
    except OSError as error:
        os.close(reading)
        raise ConfigError(
            f"a secret of {len(secret)} bytes does not fit into a pipe: {error.strerror}",
            hint="hand it by a file: --secret NAME",
        ) from error
    finally:
        os.close(writing)
    return reading


def place(descriptors: Mapping[int, int]) -> None:
    """Put descriptors where the program expects them: wanted number by number it has now. What stood there is closed.

    Raises:
        ConfigError: a number is beyond the limit of open files.
    """
    try:
        beyond = max(descriptors, default=0) + 1
        parked = {
            wanted: fcntl.fcntl(now, fcntl.F_DUPFD_CLOEXEC, beyond) for wanted, now in descriptors.items()
        }
        for wanted, now in parked.items():
            os.dup2(now, wanted, inheritable=True)
    except OSError as error:
        raise ConfigError(
            f"cannot hand over descriptors {', '.join(map(str, descriptors))}: {error.strerror}",
            hint="numbers below the limit of open files, such as 3",
        ) from error


def become(
    program: str, argv: Sequence[str], environ: Mapping[str, str], secrets: Mapping[str, Secret]
) -> NoReturn:
    """Become a program; `secrets` are variables of its environment besides `environ`.

    Raises:
        UsageError: a secret holds a zero byte, which no variable can.
        OSError: the program cannot be executed, or all of it is too long.
    """
    with ExitStack() as pages:
        entries = [os.fsencode(f"{name}={value}") for name, value in environ.items() if name not in secrets]
        addresses: list[int] = []
        for name, secret in secrets.items():
            head = os.fsencode(f"{name}=")
            page = pages.enter_context(locked(len(head) + len(secret) + 1))
            with secret.expose() as view:
                if 0 in view:
                    raise UsageError(
                        f"the secret for {name} holds a zero byte, which no variable can hold",
                        hint="hand it by --secret or --fd",
                    )
                page.view[: len(head)] = head
                page.view[len(head) : len(head) + len(view)] = view
            addresses.append(page.address)
        variables = (ctypes.c_void_p * (len(entries) + len(addresses) + 1))()
        keep = [ctypes.c_char_p(entry) for entry in entries]
        for at, text in enumerate(keep):
            variables[at] = ctypes.cast(text, ctypes.c_void_p)
        for at, address in enumerate(addresses, start=len(entries)):
            variables[at] = address
        arguments = (ctypes.c_char_p * (len(argv) + 1))(*map(os.fsencode, argv))
        _reset_signals()
        _LIBC.execve(os.fsencode(program), arguments, variables)
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), program)


def _reset_signals() -> None:
    """Undo what Python did at its start; other programs count on these."""
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


def _candidates(environ: Mapping[str, str]) -> list[Path]:
    named = environ.get("XDG_RUNTIME_DIR")
    own = [Path(named)] if named and Path(named).is_absolute() else []
    return [*own, Path(f"/run/user/{os.geteuid()}"), Path("/dev/shm"), Path("/run")]  # noqa: S108 - its kind is checked


def _mount_ramfs(point: Path) -> bool:
    """Mount a ramfs that only this process and its children see; answer whether it is there."""
    try:
        point.mkdir(mode=0o755, exist_ok=True)
        if point.is_symlink() or point.stat().st_uid != 0:
            return False
    except OSError:
        return False
    if _LIBC.unshare(_CLONE_NEWNS) != 0:
        return False
    # Without this the mount would be the whole host's.
    if not _mount(None, Path("/"), None, _MS_REC | _MS_SLAVE, None):
        return False
    return _mount(b"ramfs", point, b"ramfs", _HARDENED, b"mode=0700")


def _mount(source: bytes | None, target: Path, kind: bytes | None, flags: int, data: bytes | None) -> bool:
    return bool(_LIBC.mount(source, os.fsencode(target), kind, ctypes.c_ulong(flags), data) == 0)


def _removed_at_end(parent: Path) -> Path:
    """Make a folder that goes when this process, or the program that it becomes, has ended."""
    try:
        descriptor = os.pidfd_open(os.getpid())
    except OSError as error:
        raise ConfigError(
            f"this kernel cannot say when a program ends: {error.strerror} (pidfd_open)", hint=NOWHERE
        ) from error
    folder = Path(tempfile.mkdtemp(prefix="unlatch-exec-", dir=parent))
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os.close(descriptor)
        return folder
    try:
        # Twice, so that the program has no child that it does not know.
        if os.fork() == 0:
            _remove_when_ended(descriptor, folder)
    finally:
        os._exit(0)


def _remove_when_ended(descriptor: int, folder: Path) -> None:
    os.setsid()
    os.chdir("/")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    os.closerange(0, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
    waiting.poll()
    shutil.rmtree(folder, ignore_errors=True)
