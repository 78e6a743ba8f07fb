"""What a custodian may still do once it runs: use its module's files and, if it must, sockets. Nothing else.

Called before the module is loaded and before any thread: the module's own code is confined too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from unlatch.memguard.custodian.settings import Settings
from unlatch.memguard.posture import landlock, process, seccomp

CODE = ("/usr", "/lib", "/lib64", "/bin", "/nix/store", "/gnu/store")
SYSTEM = (
    "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/hosts",
    "/etc/resolv.conf", "/etc/ssl", "/etc/pkcs11", "/etc/softhsm", "/etc/opensc", "/dev/urandom", "/dev/random",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/sys/crypto", "/sys/devices/system/cpu",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/tpmrm0", "/dev/tpm0")
DOMAINS = {
    "none": (),
    "unix": (seccomp.AF_UNIX,),
    "network": (seccomp.AF_UNIX, seccomp.AF_INET, seccomp.AF_INET6, seccomp.AF_NETLINK),
}


def confine(settings: Settings) -> dict[str, bool]:
    """Take away what is not needed; gives each measure and whether it holds."""
    measures = {"not_dumpable": process.close_to_others(), "ends_with_parent": process.end_with_parent()}
    if not process.give_up_privileges():
        return measures | {"landlock": False, "seccomp": False}
    files = landlock.restrict(landlock.ALL, _rules(settings), no_tcp=settings.sockets != "network")
    names = [*seccomp.PROGRAMS, *seccomp.MEMORY_OF_OTHERS, *seccomp.KERNEL, *seccomp.KEYS, *seccomp.SERVING]
    if settings.sockets == "none":
        names += [name for name in seccomp.SOCKETS if name not in names]
    calls = seccomp.refuse(names, domains=DOMAINS[settings.sockets])
    return measures | {"landlock": files, "seccomp": calls}


def _rules(settings: Settings) -> Iterator[landlock.Rule]:
    readable = [*map(Path, (*CODE, sys.prefix, sys.base_prefix, *SYSTEM)), *_own_code(), *settings.readable]
    if settings.module is not None:
        readable.append(Path(settings.module))
    for path in readable:
        yield path.resolve(), landlock.READS
    for path in (*map(Path, DEVICES), *settings.writable, *_softhsm()):
        yield path.resolve(), landlock.WRITES | landlock.READS


def _own_code() -> Iterator[Path]:
    """Where this package lies; in a development tree its folders are links to elsewhere."""
    import unlatch

    for folder in unlatch.__path__:
        yield Path(folder)
        for entry in Path(folder).iterdir():
            if entry.is_dir():
                yield entry


def _softhsm() -> Iterator[Path]:
    """The file that SOFTHSM2_CONF names, and the folder of tokens that it names."""
    config = Path(os.environ.get("SOFTHSM2_CONF", "/etc/softhsm/softhsm2.conf"))
    try:
        lines = config.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    yield config
    for line in lines:
        name, equals, value = line.partition("=")
        if equals and name.strip() == "directories.tokendir":
            yield Path(value.strip())
