"""Weights of another model: what fits is copied, the rest is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.denoiser import DenoiserConfig, build
from vqvdm.diffusion.dit import DiTConfig
from vqvdm.diffusion.unet import UNet, UNetConfig
from vqvdm.errors import UserError
from vqvdm.tokenizer.vqgan import VQGAN, VQGANConfig
from vqvdm.warm_start import take_over

DENOISER = UNetConfig(width=8, multipliers=(1, 2), depths=(1, 1), head_width=8)
TOKENIZER = VQGANConfig(blocks=((2, 4, 4),), widths=(8,), depths=(1,), codebook_size=16)
EMBEDDING = "conditioning.class_embedding.weight"


def filled(net: nn.Module) -> dict[str, Tensor]:
    """The state of a net of which no weight is 0 or 1."""
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("config", [DENOISER, DiTConfig(width=16, depth=1, head_width=8)])
def test_the_same_net_is_taken_over_whole(config: DenoiserConfig) -> None:
    weights = filled(build(config, NetInputs(3, 2)))
    net = build(config, NetInputs(3, 2))
    taken = take_over(net, weights, ["a", "b"], ["a", "b"])
    assert taken.share == 1.0
    assert not taken.in_part and not taken.from_scratch and not taken.unused
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())


def test_classes_are_known_by_name_and_new_ones_begin_as_none() -> None:
    weights = filled(UNet(DENOISER, NetInputs(3, 3)))
    net = UNet(DENOISER, NetInputs(3, 4))
    taken = take_over(net, weights, ["cat", "dog", "owl"], ["ant", "bee", "cat", "owl"])
    cat, _, owl, none = weights[EMBEDDING]
    assert torch.equal(net.state_dict()[EMBEDDING], torch.stack([none, none, cat, owl, none]))
    assert taken.in_part == [EMBEDDING] and not taken.from_scratch
    rows, of = 3, 5
    assert taken.of - taken.weights == (of - rows) * weights[EMBEDDING].shape[1]


def test_fewer_classes_in_another_order_are_taken_over_whole() -> None:
    weights = filled(UNet(DENOISER, NetInputs(3, 3)))
    net = UNet(DENOISER, NetInputs(3, 2))
    assert take_over(net, weights, ["cat", "dog", "owl"], ["owl", "cat"]).share == 1.0
    cat, _, owl, none = weights[EMBEDDING]
    assert torch.equal(net.state_dict()[EMBEDDING], torch.stack([owl, cat, none]))


@pytest.mark.parametrize("old", [1, 4])
def test_embeddings_of_classes_that_are_not_known_are_no_ones(old: int) -> None:
    """Those of a checkpoint with more or fewer: no row may pass for another class's."""
    weights = filled(UNet(DENOISER, NetInputs(3, old)))
    net = UNet(DENOISER, NetInputs(3, 2))
    taken = take_over(net, weights, ["a", "b"], ["a", "b"])
    none = weights[EMBEDDING][-1]
    assert torch.equal(net.state_dict()[EMBEDDING], none.expand(3, -1))
    assert taken.in_part == [EMBEDDING]


@pytest.mark.parametrize(("old", "new"), [(3, 5), (5, 3)])
def test_of_other_latents_the_channels_in_common_are_taken_over(old: int, new: int) -> None:
    weights = filled(UNet(DENOISER, NetInputs(old, 2)))
    net = UNet(DENOISER, NetInputs(new, 2))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    taken = take_over(net, weights, ["a", "b"], ["a", "b"])
    assert taken.in_part == ["first.weight", "last.2.weight", "last.2.bias"]
    first = net.first.weight
    assert torch.equal(first[:, :3], weights["first.weight"][:, :3])
    assert torch.equal(first[:, 3:], before["first.weight"][:, 3:])


def test_what_the_other_model_has_besides_is_named() -> None:
    weights = filled(UNet(DENOISER, NetInputs(3, 2, intervals=True)))
    taken = take_over(UNet(DENOISER, NetInputs(3, 2)), weights)
    assert len(taken.unused) == 4
    assert "unused: conditioning.interval.0.weight" in str(taken)


def test_another_width_is_refused_in_one_line() -> None:
    weights = filled(UNet(replace(DENOISER, width=24), NetInputs(3, 2)))
    with pytest.raises(UserError, match=r"only \d+\.\d% of .* and \d+ more.*--model") as e:
        take_over(UNet(DENOISER, NetInputs(3, 2)), weights, ["a", "b"], ["a", "b"])
    assert "\n" not in str(e.value)


def tokenizer(**changes: int) -> VQGAN:
    return VQGAN(replace(TOKENIZER, **changes))


def trained() -> dict[str, Tensor]:
    net = tokenizer().train()
    net.quantizer.start(torch.randn(64, 3))
    return filled(net)


def test_a_codebook_is_taken_over_and_not_placed_again() -> None:
    weights, net = trained(), tokenizer()
    assert take_over(net, weights).share == 1.0
    codes = net.quantizer.codes_KC.clone()
    net.quantizer.start(torch.randn(64, 3))
    assert torch.equal(net.quantizer.codes_KC, codes)
    assert torch.equal(codes, weights["quantizer.vq._codebook.embed"][0])


def test_of_a_larger_codebook_the_first_codes_are_taken_over() -> None:
    weights, net = trained(), tokenizer(codebook_size=24)
    take_over(net, weights)
    assert net.quantizer.placed
    assert torch.equal(net.quantizer.codes_KC[:16], weights["quantizer.vq._codebook.embed"][0])


def test_a_codebook_that_does_not_fit_is_placed_anew() -> None:
    weights, net = trained(), tokenizer(codebook_size=24, codebook_channels=4)
    taken = take_over(net, weights)
    assert not net.quantizer.placed
    assert sum("_codebook" in name for name in taken.from_scratch) == 4
