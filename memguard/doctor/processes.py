"""Which processes belong together: descendants, and those of a systemd unit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from unlatch.memguard.process_memory import NotReadableError

SYSTEMCTL_SECONDS = 10.0
CGROUPS = Path("/sys/fs/cgroup")


def descendants(roots: Iterable[int], parents: Mapping[int, int]) -> list[int]:
    """Give the roots and every process below them, roots first, each once.

    Args:
        roots: where to begin.
        parents: parent by process.
    """
    children: dict[int, list[int]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    found = list(dict.fromkeys(roots))
    for pid in found:  # it grows while it is walked
        found += [child for child in sorted(children.get(pid, ())) if child not in found]
    return found


def parents() -> dict[int, int]:
    """Read the parent of every process."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(entry)):
            found[int(entry.name)] = int(fields[1])
    return found


def is_over(pid: int) -> bool:
    """Whether a process has ended; one that only waits to be reaped has no memory either."""
    fields = _stat(Path(f"/proc/{pid}"))
    return not fields or fields[0] in "ZX"


def name_of(pid: int) -> str:
    """Give a process's name as the kernel has it."""
    try:
        text = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
    return "".join(character if character.isprintable() else "?" for character in text)


def of_unit(name: str, root: Path = CGROUPS) -> list[int]:
    """Give the processes of a systemd unit.

    Raises:
        NotReadableError: systemd does not know it, or it does not run.
    """
    argv = ["systemctl", "show", "--property=ControlGroup", "--value", "--", name]
    try:
        done = subprocess.run(
            argv, capture_output=True, timeout=SYSTEMCTL_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotReadableError(
            f"systemd cannot be asked about {name}", hint="name processes: --pid"
        ) from error
    group = done.stdout.decode(errors="replace").strip()
    found = of_group(group, root) if group.startswith("/") else []
    if not found:
        raise NotReadableError(f"the unit {name} has no process", hint=f"systemctl status {name}")
    return found


def of_group(group: str, root: Path = CGROUPS) -> list[int]:
    """Give the processes of a control group and of the groups below it, in either layout of the hierarchy."""
    for top in (root, root / "systemd", root / "unified"):
        folder = top / group.lstrip("/")
        if (folder / "cgroup.procs").is_file():
            lists = [folder / "cgroup.procs", *sorted(folder.glob("**/cgroup.procs"))]
            return list(dict.fromkeys(int(pid) for one in lists for pid in one.read_text().split()))
    return []


def _stat(process: Path) -> list[str]:
    """The fields of stat behind the name, which may hold anything; empty where the process is gone."""
    try:
        return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
