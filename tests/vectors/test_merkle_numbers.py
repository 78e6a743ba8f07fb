"""RFC 6962's tree against the proofs of transparency-dev/merkle."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from support.vectors import load, named

from unlatch.gate.merkle import (
    EMPTY_ROOT,
    ProofError,
    Tree,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

VECTORS = load("rfc6962_merkle")
# RFC 6962 section 2.1 over the eight leaves of Google's certificate-transparency tests (merkle_tree_test.cc).
LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def decoded(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def steps(proof: list[str] | None) -> list[bytes]:
    return [decoded(step) for step in proof or []]


@pytest.mark.parametrize("case", named(VECTORS["inclusion"], "name"))
def test_inclusion_proofs_are_judged_alike(case: dict[str, Any]) -> None:
    def verify() -> None:
        verify_inclusion(
            leaf=decoded(case["leafHash"]), index=case["leafIdx"], size=case["treeSize"], proof=steps(case["proof"]),
            root=decoded(case["root"]),
        )  # fmt: skip

    if case["wantErr"]:
        with pytest.raises(ProofError):
            verify()
    else:
        verify()


# Where we differ: a log's first checkpoint extends nothing, and a root is never shorter than 32 bytes.
DIFFERENT = (
    "additional/size1-is-zero-and-size2-is-not-zero",
    "additional/sizes-are-equal-one-and-proof-is-empty",
)


@pytest.mark.parametrize(
    "case", named([case for case in VECTORS["consistency"] if case["name"] not in DIFFERENT], "name")
)
def test_consistency_proofs_are_judged_alike(case: dict[str, Any]) -> None:
    def verify() -> None:
        verify_consistency(
            old=case["size1"], new=case["size2"], proof=steps(case["proof"]), old_root=decoded(case["root1"]),
            new_root=decoded(case["root2"]),
        )  # fmt: skip

    if case["wantErr"]:
        with pytest.raises(ProofError):
            verify()
    else:
        verify()


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    tree = Tree(map(leaf_hash, LEAVES[:size]))

    assert tree.root().hex() == ROOTS[size - 1]


def test_empty_tree_has_the_hash_of_nothing() -> None:
    assert Tree().root() == EMPTY_ROOT == hashlib.sha256().digest()


def test_leaf_and_node_hashes_differ_on_the_same_bytes() -> None:
    assert leaf_hash(bytes(64)) != node_hash(bytes(32), bytes(32))
