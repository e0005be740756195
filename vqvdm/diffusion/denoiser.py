"""The nets that a denoiser may be: how one is built, and described in a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from vqvdm.checkpoint import as_config
from vqvdm.diffusion import dit, unet
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.dit import DiT, DiTConfig
from vqvdm.diffusion.unet import UNet, UNetConfig
from vqvdm.errors import UserError

DenoiserConfig = UNetConfig | DiTConfig
Denoiser = UNet | DiT
DenoiserName = Literal["unet", "dit"]
CONFIGS: dict[DenoiserName, type[DenoiserConfig]] = {"unet": UNetConfig, "dit": DiTConfig}
"""The configuration of each net by its name."""
BLOCKS = (unet.Block, dit.Block)
"""Their blocks: what activation checkpointing computes again."""


def build(config: DenoiserConfig, inputs: NetInputs) -> Denoiser:
    """The net of a configuration, initialised at random."""
    return UNet(config, inputs) if isinstance(config, UNetConfig) else DiT(config, inputs)


def build_for(bundle: Mapping[str, Any]) -> Denoiser:
    """The net that a bundle's config.json describes, initialised at random; `UserError` as of
    `read_config`."""
    inputs = NetInputs(
        bundle["latents"]["shape"][0],
        len(bundle["classes"]),
        intervals=bundle["objective"]["name"] == "average_velocity",
        known_frames="conditioning" in bundle,
        text_width=bundle["text"]["width"] if "text" in bundle else 0,
    )
    return build(read_config(bundle), inputs)


def described(config: DenoiserConfig) -> dict[str, Any]:
    """The part of a bundle's config.json that describes its net. A U-Net is written without its
    name and without later fields that have their defaults, so earlier versions can read it."""
    fields = asdict(config)
    if isinstance(config, DiTConfig):
        return {"model": fields, "denoiser": "dit"}
    missing = {name for name, value in unet.LATER.items() if fields[name] == value}
    return {"model": {name: value for name, value in fields.items() if name not in missing}}


def read_config(bundle: Mapping[str, Any]) -> DenoiserConfig:
    """The configuration in a bundle's config.json; `UserError` for another net or other fields."""
    name = bundle.get("denoiser", "unet")
    if name not in CONFIGS:
        raise UserError(
            f"config.json describes the denoiser {name!r}, which is none of "
            f"{', '.join(CONFIGS)}: it was made by another version"
        )
    return as_config(CONFIGS[name], bundle["model"])
