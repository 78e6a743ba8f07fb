"""Debian's clevis against our gate: it is held until people decide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gate import ClevisDecrypt, Gate

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate with one operator and one workload."""
    with Gate(tmp_path_factory.mktemp("gate")) as running:
        yield running


def test_clevis_decrypts_what_an_operator_approved(gate: Gate, tmp_path: Path) -> None:
    jwe = gate.seal_with_clevis(b"secret")
    with ClevisDecrypt(jwe, home=tmp_path) as asker:
        request = gate.wait_for_request()

        assert gate.approve(request, code="pay").returncode == 0
        assert asker.end() == (0, b"secret")


def test_clevis_fails_when_an_operator_denies(gate: Gate, tmp_path: Path) -> None:
    jwe = gate.seal_with_clevis(b"secret")
    with ClevisDecrypt(jwe, home=tmp_path) as asker:
        request = gate.wait_for_request()

        assert gate.deny(request).returncode == 0
        assert asker.end() == (1, b"")
