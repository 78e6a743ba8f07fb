"""The audit tree: every honest proof holds, and no changed one does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlatch.gate.merkle import (
    EMPTY_ROOT,
    ProofError,
    Tree,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

MOST = 130
TREE = Tree(leaf_hash(bytes([number])) for number in range(MOST))


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(naive_root(leaves[:split]), naive_root(leaves[split:]))


@given(size=st.integers(0, MOST))
def test_root_is_the_standards(size: int) -> None:
    assert TREE.root(size) == naive_root([leaf_hash(bytes([number])) for number in range(size)])


@given(size=st.integers(1, MOST), data=st.data())
def test_inclusion_proof_holds_and_a_changed_one_does_not(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof, leaf, root = TREE.inclusion(index, size), leaf_hash(bytes([index])), TREE.root(size)
    verify_inclusion(leaf=leaf, index=index, size=size, proof=proof, root=root)

    for wrong in changed(proof, data):
        with pytest.raises(ProofError):
            verify_inclusion(leaf=leaf, index=index, size=size, proof=wrong, root=root)
    other = data.draw(st.integers(0, MOST).filter(lambda number: number != index))
    with pytest.raises(ProofError):
        verify_inclusion(leaf=leaf_hash(bytes([other])), index=index, size=size, proof=proof, root=root)
    with pytest.raises(ProofError):
        verify_inclusion(leaf=leaf, index=other, size=size, proof=proof, root=root)


@given(new=st.integers(0, MOST), data=st.data())
def test_consistency_proof_holds_and_a_changed_one_does_not(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(0, new))
    proof = TREE.consistency(old, new)
    old_root, new_root = TREE.root(old), TREE.root(new)
    verify_consistency(old=old, new=new, proof=proof, old_root=old_root, new_root=new_root)

    for wrong in changed(proof, data):
        with pytest.raises(ProofError):
            verify_consistency(old=old, new=new, proof=wrong, old_root=old_root, new_root=new_root)
    with pytest.raises(ProofError):
        verify_consistency(old=old, new=new, proof=proof, old_root=leaf_hash(b"x"), new_root=new_root)
    if old > 0:
        with pytest.raises(ProofError):
            verify_consistency(old=old, new=new, proof=proof, old_root=old_root, new_root=leaf_hash(b"x"))


@given(
    old=st.integers(0, 2**64), new=st.integers(0, 2**64), steps=st.lists(st.binary(min_size=32, max_size=32), max_size=70)
)  # fmt: skip
def test_invented_proof_is_refused(old: int, new: int, steps: list[bytes]) -> None:
    with pytest.raises(ProofError):
        verify_consistency(old=old or 1, new=new, proof=steps, old_root=bytes(32), new_root=b"\1" * 32)


def changed(proof: list[bytes], data: st.DataObject) -> list[list[bytes]]:
    longer = [*proof, leaf_hash(b"more")]
    if not proof:
        return [longer]
    place = data.draw(st.integers(0, len(proof) - 1))
    flipped = [*proof]
    flipped[place] = leaf_hash(b"another")
    return [longer, proof[:-1], flipped, [*proof[:place], proof[place][:-1], *proof[place + 1 :]]]
