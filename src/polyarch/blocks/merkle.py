"""Merkle trees: find out where two large collections differ without sending them (Merkle, 1987).

The keys are spread over the leaves of a binary tree by a hash; a leaf's digest is that of what its keys hold,
an inner node's that of its two children.  Who compares trees begins at the root and follows only digests that
differ: equal collections cost one comparison.  Nodes are numbered as in a heap: 1 is the root, n's children
are 2n and 2n + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zlib import crc32

from polyarch.core.messages import encode

__all__ = ["LEAVES", "Merkle", "is_leaf", "leaf_of"]

LEAVES = 64


def leaf_of(key: str) -> int:
    """The leaf where a key belongs."""
    return LEAVES + crc32(key.encode()) % LEAVES


def is_leaf(node: int) -> bool:
    """Whether a node has keys and no children."""
    return node >= LEAVES


class Merkle:
    """The tree of a collection as it is now."""

    def __init__(self, collection: Mapping[str, Any]) -> None:
        self.digests = [0] * (2 * LEAVES)
        for key, value in collection.items():
            # A sum, so that the order of the keys does not matter.
            leaf = leaf_of(key)
            self.digests[leaf] = (self.digests[leaf] + crc32(encode((key, value)))) & 0xFFFFFFFF
        for node in range(LEAVES - 1, 0, -1):
            self.digests[node] = crc32(encode((self.digests[2 * node], self.digests[2 * node + 1])))
