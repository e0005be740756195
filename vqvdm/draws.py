"""Random numbers as a function of counters: of a key, of a sample's number and of the place in it.

Nothing is drawn in an order, so each worker computes the numbers of its own samples, on its own
device. Integers are the same everywhere; what is computed from them in double precision and
rounded to float32 is the same but for one number in some hundred million.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The 64 bits of an unsigned number as PyTorch's signed one."""
    return value - 2**64 if value >= 2**63 else value


GOLDEN = _signed(0x9E3779B97F4A7C15)
"""The increment of SplitMix64: 2^64 over the golden ratio."""
FIRST, SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)

AT_ONCE, AT_ONCE_ON_CPU = 2**23, 2**16
"""Normal numbers computed at a time, but at least those of a sample: on a GPU few kernels, within
half a gigabyte; on a CPU what its caches hold."""


def _scramble(z: Tensor) -> Tensor:
    """The output function of SplitMix64 (Steele, Lea and Flood, 2014), in place.

    Products wrap at 64 bits. Shifts of signed numbers repeat the sign, which is masked away.
    """
    for shift, factor in ((30, FIRST), (27, SECOND)):
        z ^= (z >> shift) & ((1 << (64 - shift)) - 1)
        z *= factor
    z ^= (z >> 31) & ((1 << 33) - 1)
    return z


def bits(key: int, first: int, rows: int, count: int, device: torch.device) -> Tensor:
    """64 random bits at each of `count` places of the samples `first`, `first` + 1, …, as signed
    integers (rows, count). `key` is any number of 64 bits.

    Each sample has a sequence of SplitMix64 of its own, which starts at a scrambled number.
    """
    sample_B = torch.arange(first, first + rows, device=device)
    start_B = _scramble((sample_B + 1).mul_(GOLDEN).add_(_signed(key % 2**64)))
    place_N = torch.arange(1, count + 1, device=device).mul_(GOLDEN)
    return _scramble(start_B[:, None] + place_N)


def uniform(key: int, first: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers in [0, 1), float32, of a shape (rows, …)."""
    random = bits(key, first, shape[0], math.prod(shape[1:]), device)
    # As many bits as float32 holds: 1 is never reached by rounding.
    return ((random >> 40) & (2**24 - 1)).float().mul_(2.0**-24).view(shape)


def normal(key: int, first: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard normal numbers, float32, of a shape (rows, …) (Box and Muller, 1958)."""
    count, end = math.prod(shape[1:]), first + shape[0]
    step = max(1, (AT_ONCE if device.type == "cuda" else AT_ONCE_ON_CPU) // max(1, count))
    parts = [
        _normal(key, start, min(step, end - start), count, device)
        for start in range(first, end, step)
    ]
    return torch.cat(parts).view(shape)


def _normal(key: int, first: int, rows: int, count: int, device: torch.device) -> Tensor:
    random = bits(key, first, rows, -(-count // 2), device)
    high, low = (random >> 32) & (2**32 - 1), random & (2**32 - 1)
    # In double precision: in single, the last bit depends on where in a tensor a number stands.
    radius = high.double().add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = low.double().mul_(2 * math.pi * 2.0**-32)
    pairs = torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=1)
    return pairs[:, :count].float()
