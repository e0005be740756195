"""The kinds of tokenizers: how one is built, and described in its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vqvdm.checkpoint import as_config
from vqvdm.errors import UserError
from vqvdm.tokenizer import inflated, vqgan
from vqvdm.tokenizer.base import Tokenizer, TokenizerConfig
from vqvdm.tokenizer.inflated import Inflated, InflatedConfig
from vqvdm.tokenizer.pixels import PIXELS, Pixels, PixelsConfig
from vqvdm.tokenizer.vqgan import VQGAN, VQGANConfig

INFLATED = "inflated"
"""The name in a config.json of a tokenizer out of an image autoencoder; VQGANs have none."""
BLOCKS = (vqgan.ResidualBlock, *inflated.BLOCKS)
"""The blocks of all kinds: what activation checkpointing computes again."""


def build(config: TokenizerConfig) -> Tokenizer:
    """The net of a configuration, initialised at random."""
    if isinstance(config, InflatedConfig):
        return Inflated(config)
    assert isinstance(config, VQGANConfig)
    return VQGAN(config)


def build_for(described: Mapping[str, Any]) -> Tokenizer | Pixels:
    """What a config.json describes, initialised at random; `UserError` as of `read_config`."""
    config = read_config(described)
    return Pixels() if isinstance(config, PixelsConfig) else build(config)


def described(config: TokenizerConfig) -> dict[str, Any]:
    """The part of a config.json that says which tokenizer its weights are of. Without the name it
    is a VQGAN, or, without blocks, none: as in those of earlier versions."""
    if isinstance(config, InflatedConfig):
        return {"model": asdict(config), "tokenizer": INFLATED}
    assert isinstance(config, VQGANConfig)
    return {"model": asdict(config)}


def read_config(described: Mapping[str, Any]) -> TokenizerConfig:
    """The configuration in a tokenizer's config.json; `UserError` for another kind or other
    fields."""
    if "tokenizer" not in described:
        fields = described["model"]
        return PixelsConfig() if fields == PIXELS else as_config(VQGANConfig, fields)
    if described["tokenizer"] != INFLATED:
        raise UserError(
            f"config.json describes the tokenizer {described['tokenizer']!r}, which is not "
            f"{INFLATED}: it was made by another version"
        )
    return as_config(InflatedConfig, described["model"])
