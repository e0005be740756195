"""The arithmetic of the models, counted and by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import sizes
from pipelines.recipes.presets import PRESETS, demo
from pipelines.training.settings import TrainVQGAN
from vqvdm.errors import UserError
from vqvdm.layers import Chain
from vqvdm.tokenizer.discriminator import DiscriminatorConfig
from vqvdm.tokenizer.vqgan import VQGANConfig


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


@pytest.mark.long
@pytest.mark.parametrize("preset", ["ucf101", "sky"])
def test_the_tokenizer_does_not_dominate(preset: str) -> None:
    tokenizer, _, denoiser = sizes.sizes(preset)
    assert tokenizer.gflop["encode"] <= 30
    assert tokenizer.gflop["decode"] <= 70
    # Of a clip by 20 steps; of one by a decoder of TATS's size it would be three quarters.
    whole = 20 * denoiser.gflop["step"] + tokenizer.gflop["decode"]
    assert tokenizer.gflop["decode"] < whole / 4


@pytest.mark.long
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_at_full_size(preset: str) -> None:
    nets = sizes.sizes(preset)
    for size in nets:
        assert size.parameters > 1e5
        assert all(value > 0 for value in size.gflop.values())
        if size.net != "discriminators":
            assert size.checkpointed_bytes < size.saved_bytes
    for stage in ("one", "two"):
        assert sizes.smallest_gpu([net for net in nets if net.stage == stage]) in sizes.GPUS_GIB


def test_what_a_stage_keeps_by_hand() -> None:
    config = VQGANConfig(((2, 4, 4),), (8,), (1,), codebook_size=16)
    critic = DiscriminatorConfig(width=4, levels=1, image=False)
    preset = replace(demo(), train_vqgan=TrainVQGAN(model=config, discriminator=critic))
    tokenizer, critics = sizes.tokenizer_size(preset), sizes.discriminators_size(preset)
    # A codebook and its average: 16 codes and sums of 3 numbers, 16 counts, and whether it is set.
    codebook = 4 * (2 * 16 * 3 + 16) + 1
    assert tokenizer.state_bytes == 5 * 4 * tokenizer.parameters + 2 * codebook
    # Convolutions of 3x6x6 from 3 channels to 4, and of 3x3x3 to a logit, with biases.
    assert critics.parameters == 108 * 3 * 4 + 4 + 27 * 4 + 1
    assert critics.state_bytes == 4 * 4 * critics.parameters
    gib = 2**30
    nets = [replace(tokenizer, state_bytes=n * gib, saved_bytes=gib // 8) for n in (8, 5)]
    assert sizes.smallest_gpu(nets[:1]) == "T4"
    assert sizes.smallest_gpu(nets) == "RTX 4090"


def test_an_unknown_preset_is_refused_in_words() -> None:
    with pytest.raises(UserError, match="did you mean 'ucf101'"):
        sizes.sizes("ucf100")
