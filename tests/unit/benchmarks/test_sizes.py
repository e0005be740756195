"""The arithmetic of the models, counted and by hand."""

import pytest
import torch
from torch import nn

from benchmarks import sizes
from pipelines.recipes.presets import PRESETS
from vqvdm.errors import UserError
from vqvdm.layers import Chain


def test_arithmetic_and_memory_by_hand() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv3d(2, 3, 3, padding=1, bias=False), nn.SiLU())
        x = torch.empty(1, 2, 4, 5, 6)
    places = 4 * 5 * 6
    assert sizes.gflop(lambda: net(x)) == pytest.approx(2 * 27 * 2 * 3 * places / 1e9)
    # The convolution keeps its input, the activation its own.
    assert sizes.saved_bytes(lambda: net(x)) == 4 * (2 + 3) * places


def test_memory_with_activation_checkpointing_by_hand() -> None:
    with torch.device("meta"):
        small, large = (
            Chain(*[nn.SiLU() for _ in range(depth)], nn.Conv3d(2, 2, 1)) for depth in (1, 3)
        )
        net = nn.Sequential(nn.Conv3d(2, 2, 1), small, large)
        x = torch.empty(1, 2, 4, 5, 6)
    one = 4 * x.numel()
    assert sizes.saved_bytes(lambda: net(x)) == (1 + 2 + 4) * one
    # The convolution's input and those of both blocks; the larger one keeps three more.
    assert sizes.checkpointed_bytes(net, Chain, [lambda: net(x)]) == (3 + 4) * one


@pytest.mark.parametrize("preset", ["ucf101", "sky"])
def test_the_tokenizer_does_not_dominate(preset: str) -> None:
    tokenizer, denoiser = sizes.sizes(preset)
    assert tokenizer.gflop["encode"] <= 30
    assert tokenizer.gflop["decode"] <= 70
    # Of a clip by 20 steps; of one by a decoder of TATS's size it would be three quarters.
    whole = 20 * denoiser.gflop["step"] + tokenizer.gflop["decode"]
    assert tokenizer.gflop["decode"] < whole / 4


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_at_full_size(preset: str) -> None:
    for size in sizes.sizes(preset):
        assert size.parameters > 1e6
        assert all(value > 0 for value in size.gflop.values())
        assert size.smallest_gpu in sizes.GPUS_GIB
        assert size.checkpointed_bytes < size.saved_bytes


def test_an_unknown_preset_is_refused_in_words() -> None:
    with pytest.raises(UserError, match="did you mean 'ucf101'"):
        sizes.sizes("ucf100")
