"""The scanner's control: a child process holds forms that are no secret, and the scanner must find every one."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Sequence

from unlatch.memguard.process_memory import ANONYMOUS, SHARED, NotReadableError
from unlatch.memguard.scan import Index, scan
from unlatch.memguard.secret_forms import Form

# It holds what it reads twice more: in memory of its own and in shared memory.
_CHILD = """
import mmap, struct, sys
size, = struct.unpack("<Q", sys.stdin.buffer.read(8))
data = sys.stdin.buffer.read(size)
own = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
own.write(data)
shared = mmap.mmap(-1, size)
shared.write(data)
print("ready", flush=True)
sys.stdin.buffer.read()
"""
# Between two forms: neither zeros nor text.
_BETWEEN = bytes(range(128, 160))
PLACES = (ANONYMOUS, SHARED)


def missed(decoys: Sequence[Form]) -> list[str]:
    """Plant decoys in a process and look for them; gives part, form and place of each that was not found whole.

    Raises:
        NotReadableError: not even an own child can be read.
    """
    data = _BETWEEN + _BETWEEN.join(form.data for form in decoys) + _BETWEEN
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(struct.pack("<Q", len(data)) + data)
            child.stdin.flush()
            if child.stdout.readline() != b"ready\n":
                raise NotReadableError("the control did not start")
            report = scan(child.pid, Index(decoys))
        except BrokenPipeError as error:
            raise NotReadableError("the control did not start") from error
        finally:
            child.kill()
    found = {(place, run.form.part, run.form.kind) for place, run in report.runs if run.is_whole}
    wanted = {(place, form.part, form.kind) for place in PLACES for form in decoys}
    return sorted(f"{part}: {kind}, {place}" for place, part, kind in wanted - found)
