"""Near-duplicates: none is missed, and which one is kept depends on order and hashes alone."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.sharding.near_duplicates import NearDuplicate, find_near_duplicates

BYTES = 64


def flipped(hash_B: NDArray[np.uint8], bits: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A hash that differs in just so many bits."""
    mask = np.zeros(BYTES * 8, np.uint8)
    mask[rng.choice(BYTES * 8, bits, replace=False)] = 1
    return hash_B ^ np.packbits(mask)


def one_after_the_other(hashes_NB: NDArray[np.uint8], max_bits: int) -> dict[int, NearDuplicate]:
    """The expected result, by comparing all pairs."""
    kept: list[int] = []
    duplicates: dict[int, NearDuplicate] = {}
    seen: dict[bytes, int] = {}
    for row, hash_B in enumerate(hashes_NB):
        first = seen.setdefault(hash_B.tobytes(), row)
        if first != row:
            duplicates[row] = duplicates.get(first, NearDuplicate(first, 0))
            continue
        bits = [int(np.bitwise_count(hash_B ^ hashes_NB[k]).sum()) for k in kept]
        if bits and min(bits) <= max_bits:
            duplicates[row] = NearDuplicate(kept[bits.index(min(bits))], min(bits))
        else:
            kept.append(row)
    return duplicates


@pytest.mark.parametrize("max_bits", [0, 1, 7, 31, 100])
@pytest.mark.parametrize("seed", range(3))
def test_all_are_found(max_bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = list(rng.integers(0, 256, (20, BYTES), np.uint8))
    for _ in range(120):
        # Copies of copies form chains, of which every second video may be kept.
        like = hashes[rng.integers(len(hashes))]
        hashes.append(flipped(like, int(rng.integers(0, max_bits + 3)), rng))
    hashes_NB = np.stack([hashes[i] for i in rng.permutation(len(hashes))])
    duplicates = find_near_duplicates(hashes_NB, max_bits)
    assert duplicates == one_after_the_other(hashes_NB, max_bits)
    assert len(duplicates) > 20 and not any(twin.kept in duplicates for twin in duplicates.values())


def test_a_chain_keeps_every_other_one() -> None:
    hashes = np.zeros((5, BYTES), np.uint8)
    for row in range(5):
        hashes[row, :row] = 0b111
    assert find_near_duplicates(hashes, 3) == {1: NearDuplicate(0, 3), 3: NearDuplicate(2, 3)}


def test_equal_ones_are_treated_like_the_first() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, BYTES, np.uint8)
    b, c = flipped(a, 2, rng), rng.integers(0, 256, BYTES, np.uint8)
    expected = {
        1: NearDuplicate(0, 2),
        3: NearDuplicate(0, 2),
        4: NearDuplicate(2, 0),
        5: NearDuplicate(0, 0),
    }
    assert find_near_duplicates(np.stack([a, b, c, b, c, a]), 8) == expected
    assert find_near_duplicates(np.empty((0, BYTES), np.uint8), 8) == {}


def test_a_hundred_thousand_are_compared_in_seconds() -> None:
    """All pairs would be five thousand million."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (100_000, BYTES), np.uint8)
    hashes[70_000:70_100] = [flipped(hash_B, 16, rng) for hash_B in hashes[:100]]
    started = time.process_time()
    duplicates = find_near_duplicates(hashes, 31)
    assert duplicates == {70_000 + row: NearDuplicate(row, 16) for row in range(100)}
    assert time.process_time() - started < 20
