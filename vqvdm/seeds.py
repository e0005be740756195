"""Seeds made of several numbers."""

from __future__ import annotations

import numpy as np


def mix(*parts: int) -> int:
    """One seed in [0, 2^32) from any integers, also negative ones. Similar parts give unrelated
    seeds.

    PyTorch's generator on CPUs uses only 32 bits of a seed, too few to join the parts by shifts.
    """
    sequence = np.random.SeedSequence([int(part) % 2**64 for part in parts])
    return int(sequence.generate_state(1, np.uint32)[0])
