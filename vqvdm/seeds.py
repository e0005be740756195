"""Seeds made of several numbers."""

from __future__ import annotations

import numpy as np


def mix(*parts: int) -> int:
    """One seed in [0, 2^32) from any integers, also negative ones. Similar parts give unrelated
    seeds.

    PyTorch's generator on CPUs uses only 32 bits of a seed, too few to join the parts by shifts.
    """
    return int(_sequence(parts).generate_state(1, np.uint32)[0])


def mix64(*parts: int) -> int:
    """As `mix`, in [0, 2^64)."""
    return int(_sequence(parts).generate_state(1, np.uint64)[0])


def _sequence(parts: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([int(part) % 2**64 for part in parts])
