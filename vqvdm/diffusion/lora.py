"""Low-rank adapters of a denoiser: few weights that are trained beside frozen ones.

After Hu et al., 2021, arXiv:2106.09685: a layer's weight W becomes W + (alpha / rank)·B·A, where A
has `rank` rows and B as many columns. B is zero at first, so the net begins as it was. Files are
those of PEFT, the library that most tools read adapters with.

Shapes: O rows and I columns of a weight (outputs; inputs times positions of a kernel), R rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vqvdm.diffusion.denoiser import Denoiser, build
from vqvdm.errors import UserError
from vqvdm.ranges import Count, Range, check_ranges

CLASSES = "conditioning.class_embedding"
"""The embedding of classes, which is trained whole: new classes have no row to adapt."""
TEXT = "conditioning.text"
"""What reads captions, trained whole: another net may have none, or that of another encoder."""
INPUT = "first"
"""The layer that reads latents, trained whole in a net with conditioning frames: it has one channel
more than in a net without."""
_WEIGHT, _ADAPTER = ".parametrizations.weight.original", ".parametrizations.weight.0"
"""PyTorch's names of a weight that is adapted, and of its adapter, in place of `.weight`."""


@dataclass(frozen=True)
class LoRAConfig:
    """Adapters that are trained in place of the weights that --init-from gives."""

    rank: Annotated[int, Range(1, zero="to train all weights")] = 0
    """Rows of an adapter's matrices, such as 8; 0 trains all weights instead."""
    alpha: Count = 8
    """Adapters count alpha / rank times."""
    layers: Literal["linear", "all"] = "linear"
    """linear: those of attention, of the condition, and convolutions of one position. all:
    convolutions of several positions too, which hold most of a U-Net's weights."""

    def check(self) -> None:
        """`UserError` for numbers that make no sense."""
        check_ranges(self)


class Adapter(nn.Module):
    """What a layer's weight becomes by its adapter."""

    scale: Tensor

    def __init__(self, weight: Tensor, rank: int, alpha: int) -> None:
        super().__init__()
        rows, columns = _sides(weight)
        self.lora_A = nn.Parameter(weight.new_empty(rank, columns))
        self.lora_B = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        # A buffer, so that a state dict can be merged without the configuration.
        self.register_buffer("scale", torch.tensor(alpha / rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        # In the precision of the weights: a sum in bf16 would lose the small changes.
        with torch.autocast(weight.device.type, enabled=False):
            return adapted(weight, self.lora_A, self.lora_B, self.scale)


def adapted(weight: Tensor, a_RI: Tensor, b_OR: Tensor, scale: Tensor) -> Tensor:
    """A weight of any kernel with its adapter added."""
    return weight + (scale * (b_OR @ a_RI)).view(weight.shape)


def adapt(net: Denoiser, config: LoRAConfig) -> None:
    """Freeze a net in place, and give adapters to its layers. Layers that have no more rows or
    columns than the rank stay as they are. `UserError` for a rank that is not below the net's
    width."""
    low = max(1, net.config.width // 4)
    if config.rank >= net.config.width:
        raise UserError(
            f"--lora.rank {config.rank}: adapters of the net's width, {net.config.width}, or above "
            f"are no smaller than its layers; choose a lower rank, such as {low}"
        )
    whole = trained_whole(net)
    net.requires_grad_(False)
    for name, module in list(net.named_modules()):
        if name in whole:
            module.requires_grad_(True)
        elif _takes_adapter(module, config):
            adapter = Adapter(module.weight, config.rank, config.alpha)
            # "unsafe" spares a look at the sum, which the meta device cannot take.
            parametrize.register_parametrization(module, "weight", adapter, unsafe=True)


def trained_whole(net: Denoiser) -> list[str]:
    """The layers of which another net may have none: they get no adapter."""
    frames = [INPUT] if net.inputs.known_frames else []
    text = [TEXT] if net.inputs.text_width else []
    return [CLASSES, *frames, *text]


def _takes_adapter(module: nn.Module, config: LoRAConfig) -> bool:
    if not isinstance(module, nn.Linear | nn.Conv3d) or config.rank >= min(_sides(module.weight)):
        return False
    return config.layers == "all" or math.prod(module.weight.shape[2:]) == 1


def _sides(weight: Tensor) -> tuple[int, int]:
    """(O, I) of a weight as a matrix."""
    return weight.shape[0], weight[0].numel()


def in_words(net: nn.Module) -> str:
    """How much of an adapted net is trained."""
    parameters = dict(net.named_parameters())
    few = sum(each.numel() for each in parameters.values() if each.requires_grad)
    whole = sum(each.numel() for name, each in parameters.items() if _ADAPTER not in name)
    layers = sum(map(parametrize.is_parametrized, net.modules()))
    return (
        f"{few:,} parameters are trained, with adapters of {layers} layers; the net has {whole:,}"
    )


def frozen(net: nn.Module) -> set[str]:
    """The weights that are not trained, by the names that they have without adapters."""
    return {
        name.replace(_WEIGHT, ".weight")
        for name, parameter in net.named_parameters()
        if not parameter.requires_grad
    }


def merged_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of an adapted net as one without adapters, which are added to the weights; any
    other state as it is."""
    found = {}
    for name, tensor in state.items():
        if name.endswith(_WEIGHT):
            layer = name.removesuffix(_WEIGHT)
            parts = (state[f"{layer}{_ADAPTER}.{part}"] for part in ("lora_A", "lora_B", "scale"))
            found[f"{layer}.weight"] = adapted(tensor, *parts)
        elif _ADAPTER not in name:
            found[name] = tensor
    return found


def merged(net: Denoiser) -> Denoiser:
    """A copy of a net whose adapters are added to its weights: an ordinary one."""
    # Built from scratch: adapters that PyTorch removes from a copy are gone from the original too.
    with torch.device("meta"):
        plain = build(net.config, net.inputs)
    state = merged_state(net.state_dict())
    plain.load_state_dict({name: each.clone() for name, each in state.items()}, assign=True)
    return plain


def load_frozen(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the state of a net without adapters into an adapted one, whose adapters stay."""
    names = {name.replace(_WEIGHT, ".weight"): name for name in net.state_dict()}
    net.load_state_dict({names[name]: tensor for name, tensor in state.items()}, strict=False)


def save_adapter(folder: Path, net: Denoiser, config: LoRAConfig) -> None:
    """Write what was trained as `adapter_model.safetensors` and `adapter_config.json`, which
    `peft.PeftModel.from_pretrained` loads onto the net that it was trained from."""
    layers = {name: each for name, each in net.named_modules() if parametrize.is_parametrized(each)}
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        adapter = layer.parametrizations["weight"][0]
        kernel = layer.weight.shape[2:]
        # A has the kernel of a convolution, B one of a single position.
        a = adapter.lora_A.view(config.rank, -1, *kernel)
        b = adapter.lora_B.view(-1, config.rank, *[1] * len(kernel))
        tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    for name in trained_whole(net):
        state = net.get_submodule(name).state_dict()
        tensors |= {f"{name}.{part}": tensor for part, tensor in state.items()}
    described = {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(layers),
        "modules_to_save": trained_whole(net),
        "inference_mode": True,
    }
    folder.mkdir(parents=True)
    found = {f"base_model.model.{n}": t.detach().contiguous() for n, t in tensors.items()}
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    text = json.dumps(described, indent=1, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n")
