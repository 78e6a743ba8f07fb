"""What the kernel shows of a process's memory: mappings, and the bytes of those pages that are there.

Rule 1: nothing is changed: no stop, no trace, no write. Pages that were never touched are left alone, since reading them
would make them; pages that were swapped out come back.
Rule 2: a page that cannot be read is told, never passed over.

Sources: proc_pid_maps(5), proc_pid_mem(5), the kernel's admin-guide/mm/pagemap.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from unlatch.errors import UnavailableError

PAGE = mmap.PAGESIZE
HEAP, STACK, ANONYMOUS, FILE, SHARED, SECRET = (
    "heap",
    "stack",
    "anonymous",
    "file mapping",
    "shared",
    "secret memory",
)
"""Kinds of memory. A thread's stack and further heaps of a C library are anonymous: the kernel knows no better."""
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) \S+ \d+ *(.*)")
# The kernel's own pages, the same for every process; reading them fails or means nothing.
_KERNEL = ("[vvar", "[vsyscall]", "[uprobes]", "[vdso]")
_IN_MEMORY = ("/dev/zero", "/memfd:", "/SYSV", "/dev/shm/", "/run/shm/")  # noqa: S108 - names that the kernel gives
_PRESENT_OR_SWAPPED = 3 << 62
_ENTRIES = 1 << 15


class NotReadableError(UnavailableError):
    """The kernel does not let us read this process: never the same as no hit."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """A range of addresses, and what it is."""

    start: int
    end: int
    offset: int
    kind: str
    name: str

    @classmethod
    def parse(cls, line: str) -> Mapping | None:
        """Read a line of /proc/PID/maps; None for the kernel's own pages."""
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError("not a line of maps")
        name = match[5]
        if name.startswith(_KERNEL):
            return None
        return cls(int(match[1], 16), int(match[2], 16), int(match[4], 16), _kind(name, match[3]), name)


def _kind(name: str, permissions: str) -> str:
    if name.startswith("/secretmem"):
        return SECRET
    if permissions.endswith("s"):
        return SHARED
    if name.startswith("/"):
        return FILE
    return {"[heap]": HEAP, "[stack]": STACK}.get(name, ANONYMOUS)


@dataclass(slots=True)
class Block:
    """Bytes at an address; `data` is None where they could not be read.

    The first `kept` bytes are the last ones of the block before; `goes_on` says that the next block follows this one.
    """

    start: int
    size: int
    data: memoryview | None
    kept: int = 0
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """An open process."""

    pid: int
    mappings: tuple[Mapping, ...]
    _memory: int
    _pagemap: int

    def blocks(self, mapping: Mapping, *, buffer: bytearray, overlap: int) -> Iterator[Block]:
        """The pages that are there, in order; a block that follows the one before begins with its last `overlap` bytes.

        Each block is a view of `buffer` (longer than `overlap`), good until the next one is asked for.
        """
        shared = self._open_shared(mapping)
        if shared is None:
            for start, end in self._present(mapping):
                yield from _read(self._memory, start, end, 0, buffer, overlap)
            return
        try:
            shift = mapping.start - mapping.offset
            for start, end in _data(shared, mapping.offset, mapping.offset + mapping.end - mapping.start):
                yield from _read(shared, start + shift, end + shift, shift, buffer, overlap)
        finally:
            os.close(shared)

    def still_has(self, start: int) -> bool:
        """Whether an address is mapped now: what was given back meanwhile holds nothing."""
        try:
            return any(one.start <= start < one.end for one in _mappings(self.pid))
        except OSError:
            return False

    def _present(self, mapping: Mapping) -> Iterator[tuple[int, int]]:
        """Ranges of pages that this process has, in memory or swapped out."""
        begin: int | None = None
        for first in range(mapping.start // PAGE, mapping.end // PAGE, _ENTRIES):
            count = min(_ENTRIES, mapping.end // PAGE - first)
            entries = memoryview(os.pread(self._pagemap, count * 8, first * 8)).cast("Q")
            if not any(entry & _PRESENT_OR_SWAPPED for entry in set(entries)):
                if begin is not None:
                    yield begin, first * PAGE
                    begin = None
                continue
            for number, entry in enumerate(entries, start=first):
                if entry & _PRESENT_OR_SWAPPED:
                    begin = number * PAGE if begin is None else begin
                elif begin is not None:
                    yield begin, number * PAGE
                    begin = None
        if begin is not None:
            yield begin, mapping.end

    def _open_shared(self, mapping: Mapping) -> int | None:
        """Open what lies behind shared memory, with every page that any process has; None where we may not (root may)."""
        if mapping.kind != SHARED or not mapping.name.startswith(_IN_MEMORY):
            return None
        try:
            return os.open(
                f"/proc/{self.pid}/map_files/{mapping.start:x}-{mapping.end:x}", os.O_RDONLY | os.O_CLOEXEC
            )
        except OSError:
            return None


@contextmanager
def opened(pid: int) -> Iterator[Memory]:
    """Open a process for reading.

    Raises:
        NotReadableError: not root, another user's process, a kernel thread, or it ended.
    """
    with ExitStack() as stack:
        try:
            mappings = _mappings(pid)
            memory, pagemap = (
                os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("mem", "pagemap")
            )
        except OSError as error:
            raise NotReadableError(
                f"process {pid} is not readable: {error.strerror}", hint="look as root, while it runs"
            ) from error
        for descriptor in (memory, pagemap):
            stack.callback(os.close, descriptor)
        if not mappings:
            raise NotReadableError(f"process {pid} has no memory: it ended, or is the kernel's")
        yield Memory(pid, mappings, memory, pagemap)


def _mappings(pid: int) -> tuple[Mapping, ...]:
    lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    return tuple(one for line in lines if (one := Mapping.parse(line)) is not None)


def _read(
    descriptor: int, start: int, end: int, shift: int, buffer: bytearray, overlap: int
) -> Iterator[Block]:
    """Read a range in blocks; `shift` is what addresses are ahead of offsets in the descriptor."""
    view, kept = memoryview(buffer), 0
    position = start
    while position < end:
        wanted = min(len(buffer) - kept, end - position)
        try:
            count = os.preadv(descriptor, [view[kept : kept + wanted]], position - shift)
        except (OSError, OverflowError):
            count = 0
        if count == 0:
            if kept:  # what was said to go on ends here
                yield Block(position - kept, kept, view[:kept], kept)
            size = min(PAGE, end - position)
            yield Block(position, size, None)
            position, kept = position + size, 0
            continue
        position += count
        filled = kept + count
        yield Block(position - filled, filled, view[:filled], kept, goes_on=position < end)
        kept = min(overlap, filled)
        buffer[:kept] = buffer[filled - kept : filled]


def _data(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a file in memory that are no holes."""
    position = start
    with suppress(OSError):  # ENXIO: holes up to the end
        while position < end:
            begin = os.lseek(descriptor, position, os.SEEK_DATA)
            position = min(os.lseek(descriptor, begin, os.SEEK_HOLE), end)
            if begin < position:
                yield begin, position
