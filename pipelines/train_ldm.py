"""Stage two: train the diffusion model on cached latents, or on pixels.

latents/NAME/*.tar ──▶ Ray Train workers ──▶ checkpoints ──▶ ldm/NAME (a bundle)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from pipelines.io.arrays import latent_arrays, pixel_arrays
from pipelines.io.markers import load_markers
from pipelines.io.workspace import Workspace, require
from pipelines.latents import audit
from pipelines.sharding import manifest
from pipelines.training.initial import Initial, find_initial, fingerprint_of
from pipelines.training.methods.ldm import LDMMethod, denoiser_of
from pipelines.training.settings import PIXEL_SPACE, TrainLDM
from pipelines.training.stage import Stage, run_stage
from pipelines.training.trainer import Data
from vqvdm.diffusion.lora import in_words
from vqvdm.errors import UserError


def train_ldm(config: TrainLDM) -> str:
    """Train on ROOT/latents/VQGAN, or on ROOT/clips, and publish ROOT/ldm/NAME."""
    config.check()
    initial = find_initial(config, "ldm", config.workspace.ldm(config.name))
    on = _on_pixels if config.vqgan == PIXEL_SPACE else _on_latents
    return run_stage(on(config, initial))


def _on_latents(config: TrainLDM, initial: Initial | None) -> Stage:
    space = config.workspace
    latents = audit.audited(space, config.vqgan)
    config.net.check(*latents.index["shape"][2:])
    vqgan = space.vqgan(config.vqgan)
    config.check_frames(latents.index["shape"][1])
    check_adapters(config, latents.index, initial)
    return Stage(
        name="train_ldm",
        config=config,
        method=partial(LDMMethod, data=latents.index, vqgan=vqgan, initial=initial),
        data=Data(
            latents.folder,
            latents.markers,
            "encode_latents",
            partial(latent_arrays, classes=latents.index["classes"]),
            are_arrays=True,
        ),
        folder=space.ldm(config.name),
        inputs={
            "latents": latents.index["fingerprint"],
            "vqgan": latents.index["vqgan"],
            **fingerprint_of(initial),
        },
        lineage=latents.lineage,
        parts={"vqgan": vqgan},
        register=True,
    )


def _on_pixels(config: TrainLDM, initial: Initial | None) -> Stage:
    space = config.workspace
    clips = require(space.clips, "index.json", "shard_videos")
    spec = clips["spec"]
    config.net.check(spec["size"], spec["size"])
    config.check_frames(spec["frames"])
    markers = load_markers(space.clips, clips, "shard_videos")
    index = pixel_index(clips, _rates(space, spec))
    check_adapters(config, index, initial)
    return Stage(
        name="train_ldm",
        config=config,
        method=partial(LDMMethod, data=index, initial=initial),
        data=Data(
            space.clips, markers, "shard_videos", partial(pixel_arrays, classes=clips["classes"])
        ),
        folder=space.ldm(config.name),
        inputs={"clips": clips["fingerprint"]} | fingerprint_of(initial),
        lineage={"latents": clips["spec_hash"], "clips": clips["fingerprint"]},
        register=True,
    )


def check_adapters(config: TrainLDM, index: Mapping[str, Any], initial: Initial | None) -> None:
    """Print how much of the net is trained, if it gets adapters; `UserError` if they are too large,
    or if there are no weights to adapt."""
    if not config.lora.rank:
        return
    if initial is None:
        raise UserError(
            f"--lora.rank {config.lora.rank} adapts a trained net: pass --init-from, the folder of "
            "a model that jobs/train_ldm.py published"
        )
    with torch.device("meta"):
        net = denoiser_of(config, index)
    print(f"LoRA of rank {config.lora.rank}: {in_words(net)}", flush=True)


def _rates(space: Workspace, spec: dict[str, Any]) -> list[float]:
    """Frame rates of the clips: those that were requested, or else the videos' own."""
    rows = manifest.read(space.manifest).to_pylist()
    own = {row["fps"] for row in rows if row["clips"]}
    return sorted({each for rate in spec["rates"] for each in ([rate] if rate else own)})


def pixel_index(clips: dict[str, Any], rates: list[float]) -> dict[str, Any]:
    """An index as that of latents, for pixels in [-1, 1]: mean 0, standard deviation 0.5."""
    spec = clips["spec"]
    return {
        "shape": [3, spec["frames"], spec["size"], spec["size"]],
        "mean": [0.0] * 3,
        "std": [0.5] * 3,
        "classes": clips["classes"],
        "fps": rates,
        "in_pixels": True,
    }
