"""Peers have the size of what they stand for."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers import full_resolution


@pytest.mark.parametrize(
    ("build", "shape_in", "shape_out", "expected_gflop"),
    [
        (full_resolution.encoder, (3, 16, 128, 128), (256, 4, 16, 16), 47.7),
        (full_resolution.decoder, (256, 4, 16, 16), (3, 16, 128, 128), 694),
    ],
)
def test_the_tokenizer_costs_what_tats_does(
    build: Callable[[], nn.Module],
    shape_in: tuple[int, ...],
    shape_out: tuple[int, ...],
    expected_gflop: float,
) -> None:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = build()(torch.empty(1, *shape_in))
    assert out.shape == (1, *shape_out)
    assert counter.get_total_flops() / 1e9 == pytest.approx(expected_gflop, rel=0.05)
