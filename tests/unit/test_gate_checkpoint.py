"""Checkpoints: C2SP's own example, and what must not pass for one."""

from __future__ import annotations

import base64

import pytest
from support.gate_world import NOW, LogKey

from unlatch.gate.checkpoint import (
    MAX_AGE_SECONDS,
    CheckpointError,
    VerifierKey,
    checkpoint_body,
    read_checkpoint,
    write_note,
)

KEY = LogKey()
ROOT = bytes(range(32))
NOTE = KEY.note(size=7, root=ROOT, time=NOW)
# c2sp.org/signed-note, section "Verifier keys", "Example".
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_TEXT = b"This is an example message.\n"
EXAMPLE_SIGNATURE = (
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
)


def test_c2sps_example_key_verifies_its_note() -> None:
    key = VerifierKey.parse(EXAMPLE_KEY)
    signature = base64.b64decode(EXAMPLE_SIGNATURE)

    assert key.id == signature[:4]
    key.verify(signature[4:], EXAMPLE_TEXT)
    with pytest.raises(CheckpointError):
        key.verify(signature[4:], EXAMPLE_TEXT + b"\n")


def test_verifier_key_is_written_as_it_was_read() -> None:
    assert str(VerifierKey.parse(EXAMPLE_KEY)) == EXAMPLE_KEY


@pytest.mark.parametrize(
    "text",
    [
        "", "name", "name+530d903a", EXAMPLE_KEY.replace("530d903a", "530d903b"), EXAMPLE_KEY[:-4],
        EXAMPLE_KEY.replace("example.com", "example com"), EXAMPLE_KEY + "=",
        "+" + EXAMPLE_KEY.partition("+")[2], "\u00e4+530d903a+\u00e4",
    ],
)  # fmt: skip
def test_text_that_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        VerifierKey.parse(text)


def test_verifier_key_of_another_algorithm_is_refused() -> None:
    with pytest.raises(CheckpointError, match="Ed25519"):
        VerifierKey.parse(str(VerifierKey("name", 0x06, bytes(32))))


def test_checkpoint_is_read() -> None:
    found = read_checkpoint(NOTE, keys=KEY.public)

    assert (found.origin, found.size, found.root, found.time) == (KEY.public.log.name, 7, ROOT, NOW)


def test_checkpoint_with_witnesses_and_extensions_is_read() -> None:
    line = "\u2014 witness.example/w1 " + base64.b64encode(bytes(76)).decode() + "\n"

    assert read_checkpoint(NOTE + line, keys=KEY.public).size == 7


@pytest.mark.parametrize(
    "note",
    [
        "", "\n\n", NOTE[:-1], NOTE + "\n", NOTE.replace("\n\n", "\n"), NOTE.replace("\u2014", "-"), NOTE + "x",
        NOTE.replace("\n7\n", "\n07\n"), NOTE.replace("\n7\n", "\n-7\n"), NOTE.replace("\n7\n", "\n8\n"),
        NOTE.replace("\n7\n", "\n7\r\n"), NOTE.replace("\n7\n", "\n\u0667\n"), "\ud800" + NOTE, NOTE.replace("unlatch", "unlatcher", 1),
        NOTE + "\u2014 witness !!!!\n", NOTE + "\u2014 w+w AAAA\n", NOTE + "\u2014 w AAAA\n" * 16, NOTE + "\u2014 w " + "A" * 8192 + "\n",
    ],
)  # fmt: skip
def test_note_that_is_no_checkpoint_of_this_log_is_refused(note: str) -> None:
    with pytest.raises(CheckpointError):
        read_checkpoint(note, keys=KEY.public)


@pytest.mark.parametrize("missing", [0, 1])
def test_checkpoint_without_one_of_its_two_signatures_is_refused(missing: int) -> None:
    text, _, tail = NOTE.rpartition("\n\n")
    lines = tail.splitlines(keepends=True)
    del lines[missing]
    with pytest.raises(CheckpointError, match="not signed by"):
        read_checkpoint(text + "\n\n" + "".join(lines), keys=KEY.public)


@pytest.mark.parametrize("line", [0, 1])
def test_signature_of_another_length_is_refused(line: int) -> None:
    text, _, tail = NOTE.rpartition("\n\n")
    lines = tail.splitlines()
    start, name, encoded = lines[line].split(" ")
    lines[line] = f"{start} {name} {base64.b64encode(base64.b64decode(encoded)[:-1]).decode()}"
    with pytest.raises(CheckpointError, match="another length"):
        read_checkpoint(text + "\n\n" + "\n".join(lines) + "\n", keys=KEY.public)


def test_time_that_was_changed_is_refused() -> None:
    text, _, tail = NOTE.rpartition("\n\n")
    first, second = tail.splitlines()
    data = bytearray(base64.b64decode(second.split(" ")[2]))
    data[11] ^= 1
    changed = " ".join([*second.split(" ")[:2], base64.b64encode(data).decode()])
    with pytest.raises(CheckpointError, match="clock on the checkpoint is wrong"):
        read_checkpoint(f"{text}\n\n{first}\n{changed}\n", keys=KEY.public)


def test_time_out_of_range_is_refused() -> None:
    with pytest.raises(CheckpointError, match="out of range"):
        read_checkpoint(KEY.note(size=7, root=ROOT, time=1 << 63), keys=KEY.public)


def test_clocks_signature_does_not_pass_for_the_logs() -> None:
    body = checkpoint_body(origin=KEY.public.log.name, size=7, root=ROOT)
    lines = NOTE.rpartition("\n\n")[2].splitlines(keepends=True)
    with pytest.raises(CheckpointError):
        read_checkpoint(write_note(body, [lines[1], lines[1]]), keys=KEY.public)


@pytest.mark.parametrize(("seconds", "fits"), [(-61, False), (-60, True), (0, True), (MAX_AGE_SECONDS, True), (MAX_AGE_SECONDS + 1, False)])  # fmt: skip
def test_checkpoint_is_fresh_within_its_bounds(seconds: int, fits: bool) -> None:
    found = read_checkpoint(NOTE, keys=KEY.public)
    if fits:
        found.check_age(NOW + seconds)
    else:
        with pytest.raises(CheckpointError):
            found.check_age(NOW + seconds)
