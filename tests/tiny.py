"""A bundle of tiny untrained nets: enough for whatever only passes videos on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from tests.text_encoders import WIDTH, write_encoder
from vqvdm.checkpoint import save_model
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.unet import UNet, UNetConfig
from vqvdm.tokenizer.base import TokenizerConfig
from vqvdm.tokenizer.kinds import build, described
from vqvdm.tokenizer.quantize import Codebook
from vqvdm.tokenizer.vqgan import VQGANConfig

TOKENIZER = VQGANConfig(
    blocks=((4, 8, 8),), widths=(8,), depths=(1,), quantizer="fsq", levels=(8, 8, 8)
)
DENOISER = UNetConfig(width=8, multipliers=(1, 2), depths=(1, 1), head_width=8)


def write_bundle(
    folder: Path,
    classes: Sequence[str] = ("zero", "seven"),
    fps: Sequence[float] = (8.0, 16.0),
    size: int = 32,
    seed: int = 0,
    tokenizer: TokenizerConfig = TOKENIZER,
    known_frames: bool = False,
    captioned: bool = False,
) -> Path:
    """Publish ldm/NAME in `folder`: videos of 16 frames; another seed gives other weights, and with
    `known_frames` they go on from some; `captioned`, which takes `transformers`, they take
    prompts."""
    torch.manual_seed(seed)
    net = UNet(
        DENOISER,
        NetInputs(
            tokenizer.latent_channels,
            len(classes),
            known_frames=known_frames,
            text_width=WIDTH if captioned else 0,
        ),
    )
    vqgan = build(tokenizer)
    for parameter in net.parameters():  # an untrained denoiser says nothing
        torch.nn.init.normal_(parameter, std=0.2)
    if isinstance(vqgan.quantizer, Codebook):  # codes are placed by the first latents
        vqgan.quantizer.start(torch.randn(256, tokenizer.latent_channels))
    channels = tokenizer.latent_channels
    about = {
        "model": asdict(DENOISER),
        "objective": {"name": "flow", "class_dropout": 0.5},
        "latents": {
            "shape": [*tokenizer.latent_shape(16, size, size)],
            "mean": [0.0] * channels, "std": [0.5] * channels,
        },
        "classes": list(classes),
        "fps": list(fps),
        "inputs": {"latents": "1a7e47", "vqgan": "70ce71"},
    }  # fmt: skip
    if known_frames:
        about["conditioning"] = {"share": 0.5, "noise": 0.1}
    if captioned:
        encoder = write_encoder(folder / "text_encoder")
        about["text"] = {
            "column": "caption",
            "files": {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in encoder.iterdir()
            },
            "width": WIDTH, "mean": [0.0] * WIDTH, "std": 1.0,
        }  # fmt: skip
    save_model(folder, net, about)
    save_model(folder / "vqgan", vqgan, described(tokenizer))
    (folder / "MODEL_CARD.md").write_text("# A tiny model\n")
    return folder
