"""Activations that are computed again on the way back: less memory, the same training."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.sizes import saved_bytes
from pipelines.training.methods.base import Method
from pipelines.training.settings import TrainLDM
from pipelines.training.world import World
from tests.trainings import METHODS, batch
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.unet import Block, UNet, UNetConfig
from vqvdm.tokenizer.inflated import Inflated, InflatedConfig
from vqvdm.tokenizer.kinds import BLOCKS
from vqvdm.tokenizer.vqgan import VQGAN, ResidualBlock, VQGANConfig

STEPS = 3
AGAIN = World(activation_checkpointing=True)


@pytest.fixture
def no_onednn() -> Iterator[None]:
    """oneDNN sometimes computes weight gradients of 3D convolutions in bf16 that are not finite."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        return [each for item in value.values() for each in tensors(item)]
    return [value] if isinstance(value, Tensor) else []


def train(method: Method, steps: range) -> list[dict[str, float]]:
    return [World().mean(method.train_step(batch(), step)) for step in steps]


def assert_same(a: Method, b: Method) -> None:
    assert all(map(torch.equal, tensors(a.state()), tensors(b.state())))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:TF32")  # said when oneDNN is switched on again
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", ["vq", "inflated", "ldm", "dit", "lora"])
def test_it_is_the_same_training_bit_by_bit(
    name: str, accumulate: int, dtype: torch.dtype, no_onednn: None
) -> None:
    plain = METHODS[name](World(dtype=dtype), accumulate)
    again = METHODS[name](replace(AGAIN, dtype=dtype), accumulate)
    assert train(plain, range(STEPS)) == train(again, range(STEPS))
    assert_same(plain, again)


@pytest.mark.long
@pytest.mark.parametrize("name", ["vq", "inflated", "ldm", "dit", "lora"])
def test_a_training_may_go_on_with_it_and_without(name: str) -> None:
    whole = METHODS[name](World(), 1)
    curve = train(whole, range(2 * STEPS))
    state, found = None, []
    for world, steps in ((AGAIN, range(STEPS)), (World(), range(STEPS, 2 * STEPS))):
        part = METHODS[name](world, 1)
        if state:
            part.load(state)
        found += train(part, steps)
        state = part.state()
    assert found == curve
    assert_same(whole, part)


@pytest.mark.long
@pytest.mark.parametrize("name", ["vq", "inflated", "ldm", "dit", "lora"])
def test_compiled_nets_take_it(name: str) -> None:
    compiled = replace(AGAIN, compiled=True, backend="aot_eager")
    expected = train(METHODS[name](World(), 1), range(STEPS))
    found = train(METHODS[name](compiled, 1), range(STEPS))
    assert [each["loss"] for each in found] == pytest.approx(
        [each["loss"] for each in expected], rel=1e-4
    )


def test_blocks_keep_only_their_inputs() -> None:
    net = UNet(UNetConfig(8, (1,), (2,), head_width=8), NetInputs(3, 2))

    def kept(height: int) -> int:
        z_BCTHW, one = torch.zeros(1, 3, 2, height, 4), torch.ones(1)
        return saved_bytes(lambda: net(z_BCTHW, one, one.long(), one))

    plain = kept(8)
    AGAIN.checkpoint_activations(net, Block)
    # The latent, the inputs of five blocks (those of skip connections are there already), and of
    # the last norm, activation and convolution.
    channels = 3 + 5 * 8 + 3 * 8
    assert kept(8) - kept(4) == 4 * channels * 2 * 4 * (8 - 4)
    assert kept(8) < plain / 4


def test_the_tokenizer_keeps_less_than_half() -> None:
    net = VQGAN(VQGANConfig(widths=(16, 32), depths=(2, 2)))
    x = torch.zeros(1, 3, 4, 16, 16)
    plain = saved_bytes(lambda: net.encoder(x))
    AGAIN.checkpoint_activations(net, ResidualBlock)
    assert saved_bytes(lambda: net.encoder(x)) < plain / 2


def test_a_tokenizer_out_of_an_image_autoencoder_keeps_less_than_half() -> None:
    net = Inflated(InflatedConfig((16, 32), 1, 4, 4))
    x = torch.zeros(1, 3, 4, 16, 16)
    plain = saved_bytes(lambda: net.encoder(x))
    AGAIN.checkpoint_activations(net, BLOCKS)
    assert saved_bytes(lambda: net.encoder(x)) < plain / 2


def test_it_is_no_part_of_the_recipe() -> None:
    assert replace(TrainLDM(), activation_checkpointing=True).recipe() == TrainLDM().recipe()
