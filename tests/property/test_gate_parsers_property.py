"""Every parser of the gate and of the asker, under bytes from anywhere: our own refusal, or a value that writes back alike."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from support.gate_world import NOW, World
from support.host_keys import HostKeyInMemory
from support.receipts import ReceiptKey
from support.ssh_keys import KINDS, SshKey

from unlatch.bootstrap.approval import strict_json
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.code import derive_code, read_code
from unlatch.bootstrap.approval.receipt import Receipt, is_under, split_gate_url, verify_receipt
from unlatch.bootstrap.approval.words import printable
from unlatch.bootstrap.context import Context
from unlatch.bootstrap.identity.proof import Asking, HostKey, Identity, Proof, ProofError, PublicLine
from unlatch.errors import RefusedError, UntrustedGateError
from unlatch.gate import wire
from unlatch.gate.audit import verify_log
from unlatch.gate.checkpoint import VerifierKey, read_checkpoint
from unlatch.gate.enrolment import NAMESPACE, read_enrolment, write_enrolment
from unlatch.gate.entry import read_entry
from unlatch.gate.identity import identify
from unlatch.gate.protocol import StatusError, read_recovery, route
from unlatch.gate.sshsig import PublicKey, armor, verify_sshsig
from unlatch.gate.statement import Statement

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip
WORLD = World()
HOST = HostKeyInMemory()
WORLD.add_host("web1", HOST)
CASE = WORLD.request(host=HOST)
SIGNED = WORLD.signed(CASE)
ENROLMENT, ENROLMENT_SIGNATURE = WORLD.chain[1]
NOTE = WORLD.note()
ASKING = Asking("pay", CASE.receipt.kid, CASE.receipt.point, CASE.claims or b"")
PROOF = HOST.prove(ASKING, WORLD.log.challenge(time=NOW))
KEY = ReceiptKey()
RECEIPT = KEY.receipt(base="https://gate.example", now=NOW)
TOKEN = KEY.sign(RECEIPT)
KEYS = [SshKey(kind) for kind in KINDS]
BLOBS = {
    key.kind: base64.b64decode("".join(key.sign(b"message", namespace=NAMESPACE).splitlines()[1:-1]))
    for key in KEYS
}
GOOD = {
    "statement": SIGNED.statement, "enrolment": ENROLMENT, "entry": CASE.entry, "claims": CASE.claims or b"",
    "receipt": CASE.receipt.payload(), "host enrolment": WORLD.chain[-1][0],
}  # fmt: skip


def _recovery(data: bytes) -> object:
    return read_recovery(
        data, kid="k", exchange={"k": {"crv": "P-256", "kty": "EC", "x": "", "y": ""}}, signing=()
    )


PARSERS: dict[str, tuple[Callable[[bytes], object], type[Exception]]] = {
    "statement": (Statement.parse, RefusedError), "enrolment": (read_enrolment, RefusedError), "entry": (read_entry, RefusedError),
    "host enrolment": (read_enrolment, RefusedError), "claims": (Claims.parse, ValueError), "receipt": (Receipt.parse, ValueError), "object": (strict_json.read_object, ValueError),
    "frame": (wire.read_frame, RefusedError), "recovery": (_recovery, StatusError),
    "token": (lambda data: verify_receipt(data, keys=[KEY.public]), UntrustedGateError),
    "export": (lambda data: verify_log(data.splitlines(keepends=True), fingerprint=""), RefusedError),
    "advertisement": (lambda data: Context.from_advertisement(data, name="n", url="u", thumbprint=None), UntrustedGateError),
}  # fmt: skip
TEXT_PARSERS: dict[str, tuple[Callable[[str], object], type[Exception]]] = {
    "public key": (PublicKey.parse, RefusedError), "verifier key": (VerifierKey.parse, RefusedError),
    "checkpoint": (lambda text: read_checkpoint(text, keys=WORLD.log.public), RefusedError),
    "signature": (lambda text: verify_sshsig(text, b"", namespace="n"), RefusedError), "code": (read_code, ValueError),
    "proof": (Proof.parse, ProofError), "host key": (HostKey.parse, ProofError), "host line": (PublicLine.parse, ProofError),
    "identity": (Identity.parse, ProofError),
    "asker": (lambda text: identify(text, ASKING, roster=WORLD.roster, now=NOW), RefusedError),
    "route": (lambda text: route("GET", text), StatusError), "frame": (lambda text: wire.frame_length(text.encode()[:6]), RefusedError),
}  # fmt: skip


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=400) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_as_ours_or_read(name: str, data: bytes) -> None:
    parse, error = PARSERS[name]
    with contextlib.suppress(error):
        parse(data)


@pytest.mark.parametrize("name", TEXT_PARSERS)
@given(text=st.text(max_size=300))
def test_any_text_is_refused_as_ours_or_read(name: str, text: str) -> None:
    parse, error = TEXT_PARSERS[name]
    with contextlib.suppress(error):
        parse(text)


@pytest.mark.parametrize("name", GOOD)
@given(data=st.data())
def test_right_object_with_any_member_changed_is_refused_as_ours_or_read(
    name: str, data: st.DataObject
) -> None:
    members: dict[str, Any] = json.loads(GOOD[name])
    member = data.draw(st.sampled_from(sorted(members)))
    members[member] = data.draw(JSON)
    parse, error = PARSERS[name]
    with contextlib.suppress(error):
        parse(rfc8785.dumps(members))


@given(data=st.data())
def test_statement_with_any_byte_changed_is_refused_with_its_signature(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(SIGNED.statement) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != SIGNED.statement[place]))
    changed = SIGNED.statement[:place] + bytes([byte]) + SIGNED.statement[place + 1 :]
    with pytest.raises(RefusedError):
        verify_sshsig(SIGNED.signature, changed, namespace="unlatch-approve-v1")


@given(data=st.data())
def test_enrolment_with_any_byte_changed_is_refused(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(ENROLMENT) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != ENROLMENT[place]))
    changed = ENROLMENT[:place] + bytes([byte]) + ENROLMENT[place + 1 :]
    with pytest.raises(RefusedError):
        World().roster.enrol(changed, ENROLMENT_SIGNATURE or "")


@pytest.mark.parametrize("key", KEYS, ids=lambda key: str(key.kind))
@given(data=st.data())
def test_signature_blob_with_any_byte_changed_is_refused(key: SshKey, data: st.DataObject) -> None:
    blob = BLOBS[key.kind]
    place = data.draw(st.integers(0, len(blob) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != blob[place]))
    changed = armor(blob[:place] + bytes([byte]) + blob[place + 1 :])
    try:
        found = verify_sshsig(changed, b"message", namespace=NAMESPACE)
    except RefusedError:
        return
    # What is not signed is the hash's name only where both hashes were equal, which they are not: nothing may pass.
    raise AssertionError(f"byte {place} as {byte} passed for {found.key.fingerprint}")


@given(place=st.integers(0, len(NOTE) - 1), letter=st.characters(codec="utf-8"))
def test_checkpoint_with_any_letter_changed_is_refused(place: int, letter: str) -> None:
    changed = NOTE[:place] + letter + NOTE[place + 1 :]
    if changed == NOTE:
        return
    with pytest.raises(RefusedError):
        read_checkpoint(changed, keys=WORLD.log.public)


@given(place=st.integers(0, len(PROOF) - 1), letter=st.characters(codec="utf-8"))
def test_proof_with_any_letter_changed_names_nobody(place: int, letter: str) -> None:
    changed = PROOF[:place] + letter + PROOF[place + 1 :]
    if changed == PROOF:
        return
    with pytest.raises(RefusedError):
        identify(changed, ASKING, roster=WORLD.roster, now=NOW)


@given(
    text=st.text(max_size=300)
    | st.sampled_from([PROOF, str(HOST.line), str(CASE.receipt.identity), str(HOST.public)])
)
def test_what_a_host_writes_is_read_and_written_alike(text: str) -> None:
    for parse in (Proof.parse, HostKey.parse, PublicLine.parse, Identity.parse):
        with contextlib.suppress(ProofError):
            assert str(parse(text)) == text.removesuffix("\n" if parse == PublicLine.parse else "")


@given(place=st.integers(0, len(TOKEN) - 1), byte=st.integers(0, 255))
def test_receipt_with_any_byte_changed_is_refused(place: int, byte: int) -> None:
    changed = TOKEN[:place] + bytes([byte]) + TOKEN[place + 1 :]
    if changed == TOKEN:
        return
    with pytest.raises(UntrustedGateError):
        verify_receipt(changed, keys=[KEY.public])


@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_read_is_written_alike(data: bytes) -> None:
    try:
        link, change = read_enrolment(data)
    except RefusedError:
        pass
    else:
        assert write_enrolment(link, change) == data
    try:
        statement = Statement.parse(data)
    except RefusedError:
        return
    assert statement.encode() == data


@given(
    workload=st.text(max_size=64), host=st.text(max_size=60), reason=st.none() | st.text(max_size=100),
    extra=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
)  # fmt: skip
def test_claims_are_written_and_read_alike(
    workload: str, host: str, reason: str | None, extra: dict[str, str]
) -> None:
    claims = Claims(workload=workload, host=host, reason=reason, extra=extra)
    try:
        data = claims.encode()
    except ValueError:
        return

    assert Claims.parse(data) == claims


@given(nonce=st.binary(min_size=32, max_size=32), point=st.text(max_size=43), workload=st.text(max_size=64))
def test_every_code_can_be_typed_back(nonce: bytes, point: str, workload: str) -> None:
    code = derive_code(nonce=nonce, point=point, workload=workload)

    assert read_code(code.lower().replace("-", " ")) == code


@given(address=st.text(max_size=80))
def test_address_under_a_gate_starts_with_the_gate(address: str) -> None:
    base = "https://gate.example"
    if is_under(address, base, "/r/"):
        assert address.startswith(f"{base}/r/")
        assert "/" not in address.removeprefix(f"{base}/r/")


@given(url=st.text(max_size=60))
def test_workload_in_an_address_is_always_a_plain_name(url: str) -> None:
    try:
        _, workload = split_gate_url(url)
    except ValueError:  # brackets that are no IPv6 address
        return
    assert workload is None or (
        workload.isascii() and "/" not in workload and ".." not in f"/{workload}/".split("/")
    )


@given(text=st.text())
def test_words_of_the_other_side_are_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
