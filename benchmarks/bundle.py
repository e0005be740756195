"""A bundle of untrained nets of the size of a preset: time and memory do not depend on weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from benchmarks.sizes import latent_shape
from pipelines.recipes.presets import Preset, ucf101_small
from vqvdm.checkpoint import save_model
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.denoiser import build, described
from vqvdm.tokenizer.quantize import Codebook
from vqvdm.tokenizer.vqgan import VQGAN

DENOISER = ucf101_small().train_ldm.model
CLASSES = [f"class {index}" for index in range(101)]
LATENT = latent_shape(ucf101_small())


def write_bundle(
    folder: Path, latent: tuple[int, ...] = LATENT, preset: Preset | None = None
) -> None:
    """Both nets of a preset, by default `ucf101-small`, as `train_ldm` leaves them."""
    preset = preset or ucf101_small()
    config = preset.train_ldm.net
    vqgan = VQGAN(preset.train_vqgan.model)
    assert isinstance(vqgan.quantizer, Codebook)
    vqgan.quantizer.placed.fill_(True)  # as in a trained one
    metadata = described(config) | {
        "classes": CLASSES,
        "objective": {"name": "flow"},
        "latents": {"shape": list(latent), "mean": [0.0] * 3, "std": [1.0] * 3},
    }
    save_model(folder, build(config, NetInputs(LATENT[0], len(CLASSES))), metadata)
    save_model(folder / "vqgan", vqgan, {"model": asdict(vqgan.config)})
