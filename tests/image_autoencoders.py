"""A small image autoencoder with random weights, as `diffusers` writes one into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

SHAPE: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
BARE: dict[str, Any] = {
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""Without what newer autoencoders have left out."""
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Of the layers of attention, as files of 2022 have them."""


def autoencoder(seed: int = 0, **changes: Any) -> Any:
    """An `AutoencoderKL` of two levels, or of as many as are given widths."""
    from diffusers import AutoencoderKL

    options = SHAPE | changes
    levels = len(options["block_out_channels"])
    torch.manual_seed(seed)
    net = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **options,
    )
    for name, parameter in net.named_parameters():
        # Norms are drawn too: as they begin, one that is left out would not be missed.
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return net.eval()


def write_autoencoder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Save one into a folder."""
    autoencoder(seed, **changes).save_pretrained(folder)
    return folder


def rename_as_of_2022(folder: Path) -> None:
    """Give weights the names that they had then."""
    file = folder / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for name, tensor in load_file(file).items():
        for new, old in OLD_NAMES.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        renamed[name] = tensor
    save_file(renamed, file, {"format": "pt"})
