"""Low-rank adapters: what they add, what is trained, and PEFT's files."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.denoiser import Denoiser, DenoiserConfig, build
from vqvdm.diffusion.dit import DiTConfig
from vqvdm.diffusion.lora import (
    Adapter,
    LoRAConfig,
    adapt,
    frozen,
    in_words,
    load_frozen,
    merged,
    merged_state,
    save_adapter,
)
from vqvdm.diffusion.unet import UNetConfig
from vqvdm.errors import UserError

UNET = UNetConfig(width=8, multipliers=(1, 2), depths=(1, 1), head_width=8)
NETS = [UNET, DiTConfig(width=16, depth=2, head_width=8)]
SMALL, ALL = LoRAConfig(3, 6), LoRAConfig(3, 6, "all")


def base(config: DenoiserConfig, known_frames: bool = False) -> Denoiser:
    """A net that says something, as a trained one does."""
    torch.manual_seed(0)
    net = build(config, NetInputs(3, 2, known_frames=known_frames))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


def trained(net: Denoiser, config: LoRAConfig) -> Denoiser:
    """A copy with adapters that say something, and other weights of what is trained whole."""
    found = copy.deepcopy(net)
    adapt(found, config)
    torch.manual_seed(1)
    for parameter in found.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return found


def said(net: torch.nn.Module) -> Tensor:
    """What a net predicts of the same latents, one of them without a class."""
    torch.manual_seed(2)
    z, time, fps = torch.randn(2, 3, 2, 4, 4), torch.rand(2), torch.tensor([8.0, 16.0])
    with torch.no_grad():
        return net(z, time, torch.tensor([0, 2]), fps)


def test_an_adapter_adds_a_product_of_matrices() -> None:
    weight = torch.randn(4, 2, 3, 1, 1)
    adapter = Adapter(weight, rank=2, alpha=6)
    assert adapter.lora_A.shape == (2, 6) and adapter.lora_B.shape == (4, 2)
    assert torch.equal(adapter(weight), weight)
    torch.nn.init.normal_(adapter.lora_B)
    for row in range(4):
        added = sum(adapter.lora_B[row, k] * adapter.lora_A[k] for k in range(2)) * 6 / 2
        expected = weight[row] + added.view(2, 3, 1, 1)  # type: ignore[union-attr]
        torch.testing.assert_close(adapter(weight)[row], expected)


def test_adapters_are_added_in_the_precision_of_the_weights() -> None:
    weight = torch.ones(4, 4)
    adapter = Adapter(weight, rank=1, alpha=1)
    torch.nn.init.constant_(adapter.lora_A, 1.0)
    torch.nn.init.constant_(adapter.lora_B, 1 + 2**-12)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adapter(weight), torch.full((4, 4), 2 + 2**-12))


@pytest.mark.parametrize("config", NETS)
@pytest.mark.parametrize("adapters", [SMALL, ALL])
def test_a_net_begins_as_it_was_and_is_trained_in_few_weights(
    config: DenoiserConfig, adapters: LoRAConfig
) -> None:
    net = base(config)
    before = said(net)
    weights = sum(parameter.numel() for parameter in net.parameters())
    adapt(net, adapters)
    assert torch.equal(said(net), before)
    few = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    whole = "conditioning.class_embedding.weight"
    assert whole in few
    assert all("lora_" in name for name in few - {whole})
    count = sum(net.get_parameter(name).numel() for name in few)
    assert count < weights / 3
    assert in_words(net).startswith(f"{count:,} parameters are trained, with adapters of ")
    assert in_words(net).endswith(f"; the net has {weights:,}")


@pytest.mark.parametrize("config", NETS)
def test_what_reads_captions_is_trained_whole(config: DenoiserConfig) -> None:
    torch.manual_seed(0)
    net = build(config, NetInputs(3, 2, known_frames=True, text_width=5))
    found = trained(net, SMALL)
    whole = {n for n, each in found.named_parameters() if each.requires_grad and "lora_" not in n}
    text = "conditioning.text.weight"
    embedding = "conditioning.class_embedding.weight"
    assert whole == {text, embedding, "first.weight", "first.bias"}
    plain = merged(found)
    assert plain.inputs == net.inputs
    assert torch.equal(plain.state_dict()[text], found.state_dict()[text])


def test_which_layers_get_adapters() -> None:
    layers = {}
    for adapters in (SMALL, ALL):
        net = base(UNET)
        adapt(net, adapters)
        names = (name.partition(".parametrizations")[0] for name, _ in net.named_buffers())
        layers[adapters.layers] = set(names)
    convolutions = layers["all"] - layers["linear"]
    assert {"down.0.spatial.qkv", "down.0.residual.condition", "conditioning.time.0"} <= layers[
        "linear"
    ]
    assert {"down.2.residual.skip", "middle.temporal.out"} <= layers["linear"]
    assert {"first", "down.1", "down.0.residual.conv1"} <= convolutions
    assert "last.2" not in layers["all"]  # It has three rows, no more than the rank.


def test_the_layer_that_reads_known_frames_is_trained_whole() -> None:
    net = base(UNET, known_frames=True)
    adapt(net, ALL)
    assert net.first.weight.requires_grad and net.first.bias.requires_grad
    assert not frozen(net) & {"first.weight", "first.bias", "conditioning.class_embedding.weight"}
    assert {"last.2.weight", "down.0.spatial.qkv.weight", "conditioning.time.0.bias"} <= frozen(net)


@pytest.mark.parametrize("config", NETS)
@pytest.mark.parametrize("adapters", [SMALL, ALL])
def test_a_merged_net_says_what_base_and_adapters_say(
    config: DenoiserConfig, adapters: LoRAConfig
) -> None:
    net = base(config)
    plain_names, before = net.state_dict().keys(), said(net)
    adapted = trained(net, adapters)
    plain = merged(adapted)
    assert plain.state_dict().keys() == plain_names
    assert type(plain) is type(net)
    assert (said(plain) - said(adapted)).abs().max() < 1e-6
    assert (said(plain) - before).abs().max() > 0.1
    # The adapted net is as it was, and any other state stays what it is.
    assert said(adapted).equal(said(trained(net, adapters)))
    state = net.state_dict()
    assert all(merged_state(state)[name] is tensor for name, tensor in state.items())


def test_another_nets_weights_go_beneath_the_adapters() -> None:
    other, adapted = base(UNET), trained(base(UNET), SMALL)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    adapters = {n: p.clone() for n, p in adapted.named_parameters() if "lora_" in n}
    load_frozen(adapted, other.state_dict())
    assert all(torch.equal(adapted.get_parameter(n), p) for n, p in adapters.items())
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    assert torch.equal(said(adapted), said(other))


@pytest.mark.parametrize("config", NETS)
def test_a_rank_of_the_nets_width_is_refused(config: DenoiserConfig) -> None:
    width = config.width
    adapt(base(config), LoRAConfig(width - 1))
    with pytest.raises(UserError, match=f"--lora.rank {width}: .* such as {width // 4}"):
        adapt(base(config), LoRAConfig(width))


@pytest.mark.parametrize(
    ("config", "words"),
    [(LoRAConfig(-1), "^rank must be"), (LoRAConfig(8, 0), "^alpha must be")],
)
def test_what_makes_no_sense_is_refused(config: LoRAConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        config.check()


def test_files_have_pefts_names_and_shapes(tmp_path: Path) -> None:
    net = trained(base(UNET, known_frames=True), ALL)
    save_adapter(tmp_path / "adapter", net, ALL)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    shapes = {
        "down.0.spatial.qkv.lora_A": (3, 8),
        "down.0.spatial.qkv.lora_B": (24, 3),
        "down.1.lora_A": (3, 8, 1, 3, 3),
        "down.1.lora_B": (8, 3, 1, 1, 1),
        "conditioning.class_embedding": (3, 32),
        "first": (8, 4, 3, 3, 3),
    }
    for name, shape in shapes.items():
        assert tensors[f"base_model.model.{name}.weight"].shape == shape
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert described["peft_type"] == "LORA"
    assert (described["r"], described["lora_alpha"]) == (3, 6)
    assert described["modules_to_save"] == ["conditioning.class_embedding", "first"]
    names = (name.removeprefix("base_model.model.") for name in tensors if "lora_A" in name)
    assert described["target_modules"] == sorted(n.removesuffix(".lora_A.weight") for n in names)


@pytest.mark.parametrize("config", NETS)
@pytest.mark.parametrize("adapters", [SMALL, ALL])
@pytest.mark.parametrize("known_frames", [False, True])
def test_peft_reads_the_files_and_writes_the_same(
    config: DenoiserConfig, adapters: LoRAConfig, known_frames: bool, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    net = base(config, known_frames)
    adapted = trained(net, adapters)
    save_adapter(tmp_path / "ours", adapted, adapters)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path / "ours")
    assert (said(loaded) - said(adapted)).abs().max() < 1e-5 * said(adapted).abs().max()
    loaded.save_pretrained(tmp_path / "theirs")
    ours, theirs = (
        load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("ours", "theirs")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
