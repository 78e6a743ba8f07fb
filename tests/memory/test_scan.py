"""The scanner finds what is planted, and says so when it cannot look."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.pki import new_key, pem

from unlatch.memguard.scan import NotReadableError, forms, pieces, private_key_forms, scan

pytestmark = pytest.mark.memory

# It reads the secret into memory of its own making, so that no copy in its input buffers is met instead.
HOLDER = """
import sys
held = {expression}
sys.stdin = None
print("ready", flush=True)
sys.__stdin__.read()
"""


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


def hits_in_holder(secret: bytes, expression: str) -> int:
    """Hits of a secret in a process that holds an expression of it (`s` is its hex, XORed so that only `held` is whole)."""
    key = secrets.token_bytes(len(secret))
    masked = bytes(left ^ right for left, right in zip(secret, key, strict=True))
    rebuild = f"bytes(a ^ b for a, b in zip(bytes.fromhex('{masked.hex()}'), bytes.fromhex('{key.hex()}')))"
    code = HOLDER.format(expression=expression.replace("SECRET", rebuild))
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    try:
        return scan(process.pid, pieces(forms(secret))).hits
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
    ],
)
def test_planted_secret_is_found_in_each_form(expression: str) -> None:
    assert hits_in_holder(secrets.token_bytes(32), expression) > 0


def test_secret_that_is_not_there_is_not_found(bystander: int) -> None:
    report = scan(bystander, pieces(forms(secrets.token_bytes(32))))

    assert report.hits == 0
    assert report.bytes_read > 1_000_000


@pytest.mark.parametrize("kind", ["p256", "rsa", "ed25519"])
def test_forms_of_a_private_key_hold_its_numbers(kind: str) -> None:
    assert len(pieces(private_key_forms(pem(new_key(kind))))) >= 10


def test_process_that_ended_is_not_clean() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    with pytest.raises(NotReadableError):
        scan(process.pid, [os.urandom(16)])
