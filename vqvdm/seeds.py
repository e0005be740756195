"""Seeds for random numbers that depend on several things."""

from __future__ import annotations

import numpy as np


def mix(*parts: int) -> int:
    """One seed in [0, 2^32) from any integers, negative ones too; well scattered.

    PyTorch's generator on CPUs uses 32 bits of a seed: shifting parts together would lose some.
    """
    sequence = np.random.SeedSequence([int(part) % 2**64 for part in parts])
    return int(sequence.generate_state(1, np.uint32)[0])
