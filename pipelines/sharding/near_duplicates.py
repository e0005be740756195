"""Finding near-duplicates among any number of videos, by their perceptual hashes.

The bits of a hash are divided into groups. Two hashes that differ in fewer bits than there are
groups are equal in at least one group (the pigeonhole principle; Norouzi et al., "Fast search in
Hamming space with multi-index hashing", CVPR 2012). So only hashes with an equal group are
compared, and no near-duplicate is missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.sharding.perceptual_hash import FRAMES, HASH_BYTES
from pipelines.sharding.plan import Place

MAX_GROUP = 62
"""Bits of a group at most: what fits a signed integer."""

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Rows of the earlier and of the later videos, and the number of bits in which they differ."""


@dataclass(frozen=True)
class NearDuplicate:
    """For a video that is left out: the row of the kept one, and how many bits differ."""

    kept: int
    bits: int


def compare(
    places: Mapping[str, Place], hashed: Iterable[dict], count: int, min_distance: float
) -> dict[int, NearDuplicate]:
    """Rows of the near-duplicates among `count` videos, from what `hash_shard` gave.

    Of two near-duplicates, the first of the listing is kept. `min_distance` is in bits of 64.
    Prints how many videos are not compared for want of time or memory.
    """
    hashes_NB = np.zeros((count, HASH_BYTES), np.uint8)
    has_hash_N = np.zeros(count, bool)
    beyond_limits = 0
    for shard in hashed:
        beyond_limits += shard.get("beyond_limits", 0)
        for row, hash in zip(places[shard["name"]].rows_N, shard["hashes"], strict=True):
            if hash:
                hashes_NB[row] = np.frombuffer(bytes.fromhex(hash), np.uint8)
                has_hash_N[row] = True
    if beyond_limits:
        print(
            f"note: {beyond_limits} videos have no perceptual hash, so that copies of them are not "
            "found: hashing took longer than --timeout-s or more memory than --max-memory-gb "
            "allows; the next run tries them again",
            flush=True,
        )
    rows = np.flatnonzero(has_hash_N)
    max_bits = math.ceil(min_distance * FRAMES) - 1
    return {
        int(rows[late]): NearDuplicate(int(rows[found.kept]), found.bits)
        for late, found in find_near_duplicates(hashes_NB[rows], max_bits).items()
    }


def with_spans(
    found: dict[int, NearDuplicate], first_spans_N: NDArray[np.int64]
) -> dict[int, NearDuplicate]:
    """The same for all spans of each file whose first one is found; of any other row, the row of
    the first span is its own."""
    rows = np.flatnonzero(np.isin(first_spans_N, np.fromiter(found, np.int64)))
    firsts = first_spans_N[rows]
    return {row: found[first] for row, first in zip(rows.tolist(), firsts.tolist(), strict=True)}


def find_near_duplicates(hashes_NB: NDArray[np.uint8], max_bits: int) -> dict[int, NearDuplicate]:
    """For each row to leave out, the earlier row that is kept: the closest, then the first.

    Two rows are alike if they differ in at most `max_bits` bits. Rows are visited in order, and
    one is kept unless it is like a kept one: the result depends on order and hashes alone. Equal
    rows are treated like the first of them.
    """
    if not len(hashes_NB):
        return {}
    unique, first, inverse = np.unique(hashes_NB, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rows = first[order]
    near = _near(unique[order], max_bits)
    duplicates = {
        int(rows[late]): NearDuplicate(int(rows[kept]), bits) for late, (kept, bits) in near.items()
    }
    firsts = first[inverse.reshape(-1)]
    for row in np.flatnonzero(firsts != np.arange(len(firsts))):
        original = int(firsts[row])
        duplicates[int(row)] = duplicates.get(original, NearDuplicate(original, 0))
    return duplicates


def _near(hashes_NB: NDArray[np.uint8], max_bits: int) -> dict[int, tuple[int, int]]:
    """For each of the unequal rows to leave out, the kept one and the bits between them."""
    found: dict[int, dict[int, int]] = {}
    for early, late, bits in _pairs(hashes_NB, max_bits):
        for one, other, count in zip(early.tolist(), late.tolist(), bits.tolist(), strict=True):
            found.setdefault(other, {})[one] = count
    left_out: dict[int, tuple[int, int]] = {}
    for other in sorted(found):
        kept = [(count, one) for one, count in found[other].items() if one not in left_out]
        if kept:
            fewest, one = min(kept)
            left_out[other] = one, fewest
    return left_out


def _pairs(hashes_NB: NDArray[np.uint8], max_bits: int) -> Iterator[Pairs]:
    """Pairs of rows that are alike; some pairs occur more than once."""
    words_NW = np.ascontiguousarray(hashes_NB).view(np.uint64)
    for keys_N in _group_keys(hashes_NB, max_bits + 1):
        order = np.argsort(keys_N, kind="stable")
        same = np.append(keys_N[order][1:] == keys_N[order][:-1], False)
        # Rows one apart in this order are compared, then two apart, while any share a key.
        starts, apart = np.flatnonzero(same), 1
        while len(starts):
            early, late = order[starts], order[starts + apart]
            bits = np.bitwise_count(words_NW[early] ^ words_NW[late]).sum(1, dtype=np.int64)
            alike = bits <= max_bits
            if alike.any():
                yield early[alike], late[alike], bits[alike]
            starts = starts[same[starts + apart]]
            apart += 1


def _group_keys(hashes_NB: NDArray[np.uint8], groups: int) -> Iterator[NDArray[np.int64]]:
    """The bits of each group as a number. A group takes bits far apart: they agree less often."""
    total = hashes_NB.shape[1] * 8
    groups = max(groups, math.ceil(total / MAX_GROUP))
    for group in range(groups):
        keys = np.zeros(len(hashes_NB), np.int64)
        for bit in range(group, total, groups):
            keys = keys << 1 | hashes_NB[:, bit // 8] >> (7 - bit % 8) & 1
        yield keys
