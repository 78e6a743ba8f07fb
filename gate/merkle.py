"""The audit log's tree: RFC 6962 hashes, inclusion and consistency proofs.

Hashes are SHA-256 with the prefixes 0x00 for leaves and 0x01 for nodes (RFC 6962 section 2.1); proofs are
verified as RFC 9162 sections 2.1.3.2 and 2.1.4.2 say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from unlatch.errors import RefusedError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


class ProofError(RefusedError):
    """An inclusion or consistency proof does not hold."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """An append-only tree in memory: 64 bytes for each leaf, O(log n) for every root and proof."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash (32 bytes)."""
        self._levels[0].append(leaf)
        height = 0
        while len(self._levels[height]) % 2 == 0:
            below = self._levels[height]
            height += 1
            if height == len(self._levels):
                self._levels.append([])
            self._levels[height].append(node_hash(below[-2], below[-1]))

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` leaves (all, if None)."""
        size = len(self) if size is None else size
        self._check(0, size)
        return self._range(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The audit path of a leaf in the tree of `size` leaves (RFC 6962 section 2.1.1)."""
        self._check(index + 1, size)
        return self._path(index, 0, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of `new` leaves extends that of `old` (RFC 6962 section 2.1.2)."""
        self._check(old, new)
        return self._subproof(old, 0, new, whole=True) if 0 < old < new else []

    def _check(self, least: int, size: int) -> None:
        if not 0 <= least <= size <= len(self):
            raise ValueError(f"no such tree: {least} of {size}, the log holds {len(self)}")

    def _range(self, start: int, end: int) -> bytes:
        count = end - start
        height = count.bit_length() - 1
        if count == 1 << height and start % count == 0:
            return self._levels[height][start >> height]
        split = start + _split(count)
        return node_hash(self._range(start, split), self._range(split, end))

    def _path(self, index: int, start: int, end: int) -> list[bytes]:
        if end - start == 1:
            return []
        split = start + _split(end - start)
        if index < split:
            return [*self._path(index, start, split), self._range(split, end)]
        return [*self._path(index, split, end), self._range(start, split)]

    def _subproof(self, old: int, start: int, end: int, *, whole: bool) -> list[bytes]:
        if old == end:
            return [] if whole else [self._range(start, end)]
        split = start + _split(end - start)
        if old <= split:
            return [*self._subproof(old, start, split, whole=whole), self._range(split, end)]
        return [*self._subproof(old, split, end, whole=False), self._range(start, split)]


def verify_inclusion(*, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf stands at `index` in the tree of `size` leaves with this root.

    Raises:
        ProofError: it does not.

    Source: RFC 9162 section 2.1.3.2.
    """
    _check_lengths(leaf, root, *proof)
    if not 0 <= index < size:
        raise ProofError("inclusion proof for a leaf outside the tree")
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError("inclusion proof is too long")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    if last or computed != root:
        raise ProofError("inclusion proof does not lead to the root")


def verify_consistency(
    *, old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """Check that the tree of `new` leaves extends the tree of `old` leaves.

    Raises:
        ProofError: it does not, or sizes run backwards.

    Source: RFC 9162 section 2.1.4.2. From an empty tree everything follows; the proof must then be empty.
    """
    _check_lengths(old_root, new_root, *proof)
    if not 0 <= old <= new:
        raise ProofError("the log became shorter")
    if old in (0, new):
        if proof or (old == new and old_root != new_root) or (old == 0 and old_root != EMPTY_ROOT):
            raise ProofError("two logs of one size differ")
        return
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise ProofError("consistency proof is too short")
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError("consistency proof is too long")
        if node & 1 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        node, last = node >> 1, last >> 1
    if last or first != old_root or second != new_root:
        raise ProofError("consistency proof does not lead to both roots")


def _check_lengths(*hashes: bytes) -> None:
    """A hash of another length would let two pairs of children have one text."""
    if any(len(one) != HASH_BYTES for one in hashes):
        raise ProofError("a hash of another length than 32 bytes")


def _split(count: int) -> int:
    return 1 << ((count - 1).bit_length() - 1)
