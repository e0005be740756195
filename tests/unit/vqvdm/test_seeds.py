"""Seeds made of several numbers."""

import numpy as np
import pytest

from vqvdm.seeds import mix, mix64


@pytest.mark.parametrize(("mixed", "limit"), [(mix, 2**32), (mix64, 2**64)])
def test_similar_parts_give_unrelated_seeds(mixed: type[int], limit: int) -> None:
    seeds = [mixed(seed, step) for seed in range(-2, 10) for step in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < limit for seed in seeds)
    assert abs(np.mean(seeds) / limit - 0.5) < 4 * 0.29 / np.sqrt(len(seeds))
    assert mixed(1, 2) == mixed(1, 2) != mixed(2, 1)
