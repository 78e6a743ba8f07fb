"""The scanner finds what is planted, says where, and says so when it cannot look."""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pki import new_key, pem

from unlatch.memguard.process_memory import ANONYMOUS, FILE, SECRET, SHARED
from unlatch.memguard.scan import Index, NotReadableError, Report, forms, private_key_forms, scan

pytestmark = pytest.mark.memory

# It reads the secret into memory of its own making, so that no copy in its input buffers is met instead.
HOLDER = """
import sys
held = {expression}
sys.stdin = None
print("ready", flush=True)
sys.__stdin__.read()
"""
MEMFD_SECRET = 447


@pytest.fixture
def bystander() -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(expression="None")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()
    yield process.pid
    process.communicate()


def report_of_holder(secret: bytes, expression: str, *, marks: dict[str, bytes] | None = None) -> Report:
    """What a process holds that made an expression of a secret (from its XOR, so that only `held` is whole).

    `SECRET` in it makes the secret as an object, whose memory may stay as it was once freed; `EACH` tells its bytes
    one by one, and leaves no other copy than the one that the expression makes.
    """
    key = secrets.token_bytes(len(secret))
    masked = bytes(left ^ right for left, right in zip(secret, key, strict=True))
    each = f"(a ^ b for a, b in zip(bytes.fromhex('{masked.hex()}'), bytes.fromhex('{key.hex()}')))"
    code = HOLDER.format(expression=expression.replace("SECRET", f"bytes{each}").replace("EACH", each))
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    try:
        return scan(process.pid, Index(forms(secret)), marks=marks)
    finally:
        process.communicate()


@pytest.mark.parametrize(
    "expression",
    [
        "SECRET",
        "SECRET[::-1]",
        "SECRET.hex()",
        "__import__('base64').b64encode(b'.' + SECRET)",
        "b'tail' * 100000 + SECRET[:16]",
        "b'odd' + SECRET[9:]",
    ],
)
def test_planted_secret_is_found_in_each_form(expression: str) -> None:
    assert report_of_holder(secrets.token_bytes(32), expression).hits > 0


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("__import__('mmap').mmap(-1, 1 << 16, flags=0x22)", ANONYMOUS),
        ("__import__('mmap').mmap(-1, 1 << 16)", SHARED),
    ],
)
def test_kind_of_memory_is_told(expression: str, kind: str) -> None:
    planted = f"[page := {expression}, [page.write_byte(byte) for byte in EACH]]"
    report = report_of_holder(secrets.token_bytes(32), planted)

    assert report.copies()[kind] == (1, 1)


def test_secret_in_a_mapped_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(secret := secrets.token_bytes(64))
    held = f"[f := open('{tmp_path}/file', 'rb'), m := __import__('mmap').mmap(f.fileno(), 0, flags=2, prot=1), m[0]]"
    report = report_of_holder(secret, held)

    assert report.copies() == {FILE: (1, 1)}


def test_shared_memory_that_another_process_wrote_is_seen() -> None:
    secret = secrets.token_bytes(32)
    held = "[m := __import__('mmap').mmap(-1, 1 << 24), pid := __import__('os').fork(), "
    held += "pid or [m.seek(1 << 23), m.write(SECRET), __import__('os')._exit(0)], __import__('os').wait()]"

    assert report_of_holder(secret, held).copies().get(SHARED) == (1, 1)


def test_memory_that_nobody_touched_stays_untouched() -> None:
    """Reading a page that is not there would make it: the scan must not make its target grow."""
    held = "__import__('mmap').mmap(-1, 1 << 30, flags=0x22)"
    code = HOLDER.format(expression=held)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()

    def resident() -> int:
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * mmap.PAGESIZE

    before = resident()
    report = scan(process.pid, Index(forms(secrets.token_bytes(32))))
    after = resident()
    process.communicate()

    assert report.bytes_read < 1 << 28
    assert after - before < 1 << 20


def test_secret_memory_is_told_as_unreadable() -> None:
    """Memory that the kernel hides is unknown, never clean."""
    libc = ctypes.CDLL(None, use_errno=True)
    probe = libc.syscall(MEMFD_SECRET, 0)
    if probe < 0:
        pytest.fail("this kernel has no secret memory: run the gate on one that has")
    os.close(probe)
    held = (
        f"[d := __import__('ctypes').CDLL(None).syscall({MEMFD_SECRET}, 0), __import__('os').ftruncate(d, 4096), "
        "m := __import__('mmap').mmap(d, 4096), m.write(b'x')]"
    )
    report = report_of_holder(secrets.token_bytes(32), held)

    assert report.unreadable == {SECRET: 4096}


def test_secret_that_is_not_there_is_not_found(bystander: int) -> None:
    report = scan(bystander, Index(forms(secrets.token_bytes(32))))

    assert (report.hits, report.unreadable) == (0, {})
    assert report.bytes_read > 1_000_000


def test_marks_are_met_or_missed(bystander: int) -> None:
    known = Path(f"/proc/{bystander}/exe").read_bytes()[:512]
    report = scan(bystander, Index(forms(b"0123456789abcdef")), marks={"there": known, "not": os.urandom(32)})

    assert report.marks == {"there"}


@pytest.mark.parametrize("kind", ["p256", "rsa", "ed25519"])
def test_loaded_key_is_found_in_a_python_server(kind: str, tmp_path: Path) -> None:
    text = pem(new_key(kind))
    (tmp_path / "key").write_bytes(text)
    held = f"__import__('cryptography.hazmat.primitives.serialization', fromlist=['x']).load_pem_private_key(open('{tmp_path}/key', 'rb').read(), None)"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(expression=held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    process.stdout.readline()
    report = scan(process.pid, Index(private_key_forms(text)))
    process.communicate()

    assert sum(whole for _, whole in report.copies().values()) > 0


def test_process_that_ended_is_not_clean() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    with pytest.raises(NotReadableError):
        scan(process.pid, Index(forms(os.urandom(16))))


def test_thread_of_the_kernel_is_not_clean() -> None:
    with pytest.raises(NotReadableError):
        scan(2, Index(forms(os.urandom(16))))
