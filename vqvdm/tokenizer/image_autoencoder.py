"""Image autoencoders in local folders, as the library `diffusers` writes them.

The library reads them, as it knows the names that weights had in earlier versions. Weights are read
from safetensors alone: no pickle is loaded, and nothing is fetched. What was made of them needs the
library no more.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vqvdm.errors import UserError
from vqvdm.tokenizer.inflated import InflatedConfig, inflated_weights

KIND = "AutoencoderKL"
"""The class of the library whose folders are read."""
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
"""The files of a folder that are read."""
LEVELS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
"""The one kind of level that there is here, on the way down and up."""
ONLY = {"in_channels": 3, "out_channels": 3, "act_fn": "silu"}
"""Options with the one value that is taken, which is also their default."""
OF_OTHERS = {
    "sample_size",
    "scaling_factor",
    "shift_factor",
    "latents_mean",
    "latents_std",
    "force_upcast",
}
"""Options of those who use an autoencoder: they change nothing in its nets."""


def refuse_missing_library() -> None:
    """`UserError` unless `diffusers` is installed."""
    if importlib.util.find_spec("diffusers") is None:
        raise UserError(
            "an image autoencoder is read by the package diffusers, which is not installed: "
            "pip install -c constraints.txt -e '.[images]'"
        )


def inflated_config(described: Mapping[str, Any], name: str) -> InflatedConfig:
    """The shape of a tokenizer out of the autoencoder of a config.json, which messages call `name`;
    `UserError` for options that are not known here."""
    options = {key: value for key, value in described.items() if not key.startswith("_")}
    if described["_class_name"] != KIND:
        _refuse(name, f"is of the class {described['_class_name']}")
    widths = tuple(options.pop("block_out_channels", (64,)))
    for key, level in LEVELS.items():
        given = options.pop(key, [level])
        if strange := [each for each in given if each != level]:
            _refuse(name, f"has {key} {strange[0]}")
        if len(given) != len(widths):
            _refuse(name, f"has {len(given)} {key} and {len(widths)} block_out_channels")
    for key, value in ONLY.items():
        if (given := options.pop(key, value)) != value:
            _refuse(name, f"has {key} {given}")
    config = InflatedConfig(
        widths,
        options.pop("layers_per_block", 1),
        options.pop("latent_channels", 4),
        options.pop("norm_num_groups", 32),
        options.pop("mid_block_add_attention", True),
        options.pop("use_quant_conv", True),
        options.pop("use_post_quant_conv", True),
    )
    if unknown := options.keys() - OF_OTHERS:
        _refuse(name, f"has the option {min(unknown)}")
    try:
        config.check()
    except UserError as error:
        _refuse(name, f"cannot be built: {error}")
    return config


def _refuse(name: str, what: str) -> None:
    raise UserError(
        f"{name} {what}: only an {KIND} of {', '.join(LEVELS.values())} and silu, from and to RGB, "
        "is taken, as that of Stable Diffusion"
    )


def read_weights(folder: str | Path, name: str) -> dict[str, Tensor]:
    """The weights in a local folder, by their names in `Inflated`; `UserError` if `diffusers` is
    not installed, or does not load the folder, which messages call `name`."""
    refuse_missing_library()
    from diffusers import AutoencoderKL
    from diffusers.utils import logging

    # What it prints is for those who call it themselves.
    logging.set_verbosity_error()
    try:
        model, loaded = AutoencoderKL.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            # Loading with little memory would take another package.
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:  # Of many kinds, for whatever is wrong with the files.
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{name} holds no {KIND} that diffusers loads: {line}") from error
    # What the file lacks, the library leaves random.
    for what in ("missing_keys", "unexpected_keys"):
        if loaded[what]:
            raise UserError(
                f"{name}: the weights are not those that config.json describes "
                f"({what.replace('_', ' ')}: {sorted(loaded[what])[0]}): "
                "save model and configuration together"
            )
    return inflated_weights(model.state_dict())
