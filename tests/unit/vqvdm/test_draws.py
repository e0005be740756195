"""Counter-based random numbers: distributed as they should be, unrelated, the same in any share."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from vqvdm import draws
from vqvdm.seeds import mix64

CPU = torch.device("cpu")
SHAPE = (64, 3, 4, 16, 16)


def normal(key: int = 0, first: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return draws.normal(mix64(key), first, shape, CPU)


def test_integers_are_those_of_splitmix64() -> None:
    # The reference implementation's first outputs (Vigna, prng.di.unimi.it) for 1234567.
    known = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    states = torch.arange(1, 6) * draws.GOLDEN + 1234567
    assert [value % 2**64 for value in draws._scramble(states).tolist()] == known


def test_normal_numbers_are_normal() -> None:
    x = normal().double().flatten().numpy()
    error = 1 / np.sqrt(len(x))
    assert abs(x.mean()) < 4 * error
    assert abs((x**2).mean() - 1) < 4 * np.sqrt(2) * error
    assert abs((x**3).mean()) < 4 * np.sqrt(15) * error
    assert abs((x**4).mean() - 3) < 4 * np.sqrt(96) * error
    assert stats.kstest(x, "norm").pvalue > 1e-3
    beyond = (np.abs(x) > 3).sum()
    assert abs(beyond - len(x) * 0.0026998) < 4 * np.sqrt(len(x) * 0.0026998)


def test_uniform_numbers_are_uniform() -> None:
    x = draws.uniform(mix64(1), 0, (1000, 200), CPU).double().flatten().numpy()
    assert x.min() >= 0
    assert x.max() < 1
    assert stats.kstest(x, "uniform").pvalue > 1e-3
    assert stats.chisquare(np.bincount((x * 256).astype(int), minlength=256)).pvalue > 1e-3


@pytest.mark.parametrize("power", [1, 2])
def test_samples_steps_seeds_and_calls_are_unrelated(power: int) -> None:
    """Rows of neighbouring keys, also where one is the other's neighbour in two of them."""
    keys = [mix64(*parts) for parts in itertools.product((0, 1, 2), (0, 1, 5), (1, 2))]
    rows = torch.cat([draws.normal(key, 0, (6, 4096), CPU) for key in keys]).double() ** power
    related = torch.corrcoef(rows) - torch.eye(len(rows))
    assert related.abs().max() < 5.5 / np.sqrt(rows.shape[1])


@pytest.mark.parametrize("power", [1, 2])
def test_numbers_of_a_sample_are_unrelated(power: int) -> None:
    x = normal(shape=(64, 4096)).double() ** power
    x -= x.mean()
    for lag in (1, 2, 3, 16, 64, 2047, 2048, 2049):  # the two of a pair are 2048 apart
        found = (x[:, lag:] * x[:, :-lag]).mean() / x.square().mean()
        assert abs(found) < 4.5 / np.sqrt(x[:, lag:].numel()), lag


def test_every_bit_is_even_and_changes_with_key_and_sample() -> None:
    def as_bits(key: int, first: int) -> Tensor:
        random = draws.bits(key, first, 1, 4096, CPU)[0]
        return (random[:, None] >> torch.arange(64)) & 1

    base = as_bits(5, 7)
    bound = 4.5 * 0.5 / np.sqrt(len(base))
    assert (base.double().mean(0) - 0.5).abs().max() < bound
    for other in (as_bits(4, 7), as_bits(5 + 2**63, 7), as_bits(5, 6), as_bits(5, 7 + 2**20)):
        assert ((base ^ other).double().mean(0) - 0.5).abs().max() < bound


@pytest.mark.parametrize("shape", [(8, 3, 5, 7), (8, 50_000), (8,)], ids=str)
def test_a_sample_is_the_same_whatever_is_drawn_with_it(shape: tuple[int, ...]) -> None:
    for draw in (draws.normal, draws.uniform):
        whole = draw(9, 0, shape, CPU)
        assert whole.shape == shape
        assert whole.dtype == torch.float32
        alone = [draw(9, row, (1, *shape[1:]), CPU) for row in range(8)]
        assert torch.equal(torch.cat(alone), whole)
        assert torch.equal(draw(9, 3, (4, *shape[1:]), CPU), whole[3:7])


def scrambled(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def test_numbers_are_those_of_the_formulas() -> None:
    """In integers of any size: the noise of a training does not change from version to version."""
    golden, count = 0x9E3779B97F4A7C15, 5
    key = mix64(3, 14, 15)
    assert key == 2631449171946352487
    found = draws.normal(key, 2, (2, count), CPU)
    for row, sample in enumerate((2, 3)):
        start = scrambled((key + (sample + 1) * golden) % 2**64)
        words = [scrambled((start + place * golden) % 2**64) for place in (1, 2, 3)]
        radius = [math.sqrt(-2 * math.log(((word >> 32) + 0.5) / 2**32)) for word in words]
        angle = [2 * math.pi * (word % 2**32) / 2**32 for word in words]
        pairs = list(zip(radius, angle, strict=True))
        expected = [r * math.cos(a) for r, a in pairs] + [r * math.sin(a) for r, a in pairs]
        assert found[row].tolist() == pytest.approx(expected[:count], rel=1e-7)
        uniform = draws.uniform(key, sample, (1, 3), CPU)
        assert uniform[0].tolist() == [(word >> 40) / 2**24 for word in words]
