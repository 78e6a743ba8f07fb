"""The files of a gate's keys under bytes from anywhere: refused as ours, and never taken for a key."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlatch.errors import ConfigError, UnlatchError
from unlatch.gate.master import FILE, MARKER, MASTER_BYTES, describe, needs_child, open_master
from unlatch.gate.rewrap import settle
from unlatch.gate.vault import Vault
from unlatch.gate.wrapped import open_wrapped, wrap
from unlatch.memguard._native import Secret, jwe_seal

MASTER = Secret.random(MASTER_BYTES)
TPM_HEADER = (
    b'{"clevis":{"pin":"tpm2","tpm2":{"hash":"sha256","key":"ecc","jwk_pub":"AAAA","jwk_priv":"AAAA"}}}'
)
SEALED = jwe_seal(TPM_HEADER, Secret.random(MASTER_BYTES), MASTER)
WRAPPED = wrap(MASTER, Secret.random(32), purpose="signing", public={"kty": "EC"})


@pytest.fixture(autouse=True, scope="module")
def no_tpm() -> Iterator[None]:
    """A right header leads to a TPM that refuses connections."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLATCH_TCTI", "swtpm:host=127.0.0.1,port=1")
        yield


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Vault.create(Path(name) / "keyholder")
        yield Path(name) / "keyholder"


def altered(data: bytes, place: int, byte: int) -> bytes:
    return data[: place % len(data)] + bytes([byte]) + data[place % len(data) + 1 :]


BYTES = (
    st.binary(max_size=200).filter(lambda data: len(data) != MASTER_BYTES)
    | st.builds(altered, st.sampled_from([SEALED, MARKER]), st.integers(0, 400), st.integers(0, 255))
    | st.binary(max_size=80).map(lambda data: b"eyJ" + data)
)


@given(data=BYTES)
def test_any_bytes_as_a_master_key_are_refused(folder: Path, data: bytes) -> None:
    (folder / FILE).write_bytes(data)
    if data == MARKER:
        return
    with pytest.raises(UnlatchError):
        open_master(folder)
    for look in (describe, needs_child):
        try:
            look(folder)
        except UnlatchError:
            continue


@given(
    data=st.binary(max_size=300)
    | st.builds(altered, st.just(WRAPPED), st.integers(0, 400), st.integers(0, 255))
)
def test_any_bytes_as_a_wrapped_key_are_refused(folder: Path, data: bytes) -> None:
    path = folder / "any.jwe"
    path.write_bytes(data)
    if data == WRAPPED:
        return
    with pytest.raises(UnlatchError):
        open_wrapped(path, MASTER)


@given(data=st.binary(max_size=300))
def test_any_bytes_of_a_change_that_was_cut_are_thrown_away(folder: Path, data: bytes) -> None:
    cut = folder / "signing.jwe.next"
    cut.write_bytes(data)
    before = (folder / "signing.jwe").read_bytes()
    settle(folder, MASTER)

    assert not cut.exists()
    assert (folder / "signing.jwe").read_bytes() == before


def test_wrapped_key_of_another_purpose_keeps_it(folder: Path) -> None:
    path = folder / "right.jwe"
    path.write_bytes(WRAPPED)
    purpose, public, _ = open_wrapped(path, MASTER)

    assert (purpose, public) == ("signing", {"kty": "EC"})
    with pytest.raises(ConfigError, match="cannot read"):
        open_wrapped(folder / "none.jwe", MASTER)
