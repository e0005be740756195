"""Stage two: train the diffusion model on cached latents, or on pixels.

latents/NAME/*.tar ──▶ Ray Train workers ──▶ checkpoints ──▶ ldm/NAME (a bundle)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from pipelines.io import other_settings, rates
from pipelines.io.arrays import latent_arrays, pixel_arrays
from pipelines.io.markers import load_markers
from pipelines.io.workspace import Workspace, require
from pipelines.latents.published import open_latents
from pipelines.sharding import manifest
from pipelines.training.initial import Initial, find_initial, fingerprint_of
from pipelines.training.methods.ldm import LDMMethod, denoiser_of
from pipelines.training.settings import PIXEL_SPACE, TrainLDM
from pipelines.training.stage import Stage, run_stage
from pipelines.training.trainer import Data
from vqvdm.diffusion.denoiser import read_config
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
    latents = open_latents(space, config.vqgan)
    config.net.check(*latents.index["shape"][2:])
    vqgan = space.vqgan(config.vqgan)
    config.check_frames(latents.index["shape"][1])
    check_adapters(config, latents.index, initial)
    if initial:
        initial = initial.for_captions(latents.index.get("text"))
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
    markers = load_markers(space.clips, clips, "shard_videos", details=False)
    index = pixel_index(clips, _clips_of(space, spec))
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
    or if there are no weights to adapt, or those of another net."""
    if not config.lora.rank:
        return
    if initial is None:
        raise UserError(
            f"--lora.rank {config.lora.rank} adapts a trained net: pass --init-from, the folder of "
            "a model that jobs/train_ldm.py published"
        )
    if initial.bundle and (differing := _differing(config, initial.bundle)):
        raise UserError(
            f"--lora.rank {config.lora.rank}: the net of --init-from stays as it is, and the "
            f"settings ask for another ({differing}): pass those that it was trained with"
        )
    with torch.device("meta"):
        net = denoiser_of(config, index)
    print(f"LoRA of rank {config.lora.rank}: {in_words(net)}", flush=True)


def _differing(config: TrainLDM, bundle: Mapping[str, Any]) -> str:
    """What of a bundle's denoiser the settings ask otherwise, in words."""
    kind, net = bundle.get("denoiser", "unet"), "model" if config.denoiser == "unet" else "dit"
    if kind != config.denoiser:
        return f"denoiser {kind} → {config.denoiser}"
    before: dict[str, Any] = {net: asdict(read_config(bundle))}
    now: dict[str, Any] = {net: asdict(config.net)}
    before["objective.name"], now["objective.name"] = (
        bundle["objective"]["name"],
        config.objective.name,
    )
    # A net that was told of known frames reads them; one that was not may begin to.
    if "conditioning" in bundle and not config.conditioning.share:
        before["conditioning.share"] = bundle["conditioning"]["share"]
        now["conditioning.share"] = 0.0
    return other_settings.changed(before, now)


def _clips_of(space: Workspace, spec: dict[str, Any]) -> dict[float, int]:
    """Number of clips at each frame rate: of those that were requested, all; of the videos' own,
    those of the videos."""
    videos = manifest.read(space.manifest, ["fps", "clips"])
    own = Counter[float]()
    for fps, clips in zip(videos["fps"].to_pylist(), videos["clips"].to_pylist(), strict=True):
        if clips:
            own[fps] += clips
    clips_of = dict(own) if None in spec["rates"] else {}
    return clips_of | {rate: own.total() for rate in spec["rates"] if rate}


def pixel_index(clips: dict[str, Any], clips_of: dict[float, int]) -> dict[str, Any]:
    """An index as that of latents, for pixels in [-1, 1]: mean 0, standard deviation 0.5."""
    spec = clips["spec"]
    return {
        "shape": [3, spec["frames"], spec["size"], spec["size"]],
        "mean": [0.0] * 3,
        "std": [0.5] * 3,
        "classes": clips["classes"],
        **rates.summary(clips_of),
        "in_pixels": True,
    }
