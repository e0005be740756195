"""Stage two: train the diffusion model on cached latents, or on pixels.

latents/NAME/*.tar ──▶ Ray Train workers ──▶ checkpoints ──▶ ldm/NAME (a bundle)
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pipelines.io import workspace
from pipelines.io.arrays import latent_arrays, pixel_arrays
from pipelines.io.markers import load_markers
from pipelines.io.workspace import Workspace, require
from pipelines.latents import audit
from pipelines.latents.encoder import Origin, latent_shape
from pipelines.sharding import manifest
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.settings import PIXEL_SPACE, TrainLDM
from pipelines.training.stage import Stage, run_stage
from pipelines.training.trainer import Data


def train_ldm(config: TrainLDM) -> str:
    """Train on ROOT/latents/VQGAN, or on ROOT/clips, and publish ROOT/ldm/NAME."""
    config.check()
    return run_stage(_on_pixels(config) if config.vqgan == PIXEL_SPACE else _on_latents(config))


def _on_latents(config: TrainLDM) -> Stage:
    space = config.workspace
    vqgan = require(space.vqgan(config.vqgan), "config.json", "train_vqgan")
    folder = space.latents(config.vqgan)
    index = require(folder, "index.json", "encode_latents")
    config.model.check(*index["shape"][2:])
    markers = load_markers(folder, index, "encode_latents")
    clips = workspace.published(space.clips, "index.json")
    if clips:
        audit.check_shape(folder, index, latent_shape(vqgan, clips["spec"]))
    weights = audit.weights_of(space.vqgan(config.vqgan), vqgan)
    # Latents may have been copied without their clips: then their own record is trusted.
    clip_spec = clips["spec_hash"] if clips else index["origin"]["clip_spec"]
    audit.check_origin(folder, index, markers, Origin(weights, clip_spec))
    if clips and clips["fingerprint"] == index["clips"]:
        of_clips = load_markers(space.clips, clips, "shard_videos")
        audit.check_pairs(folder, markers, of_clips)
    elif clips:
        print("note: the clips have changed since the latents were made from them", flush=True)
    return Stage(
        name="train_ldm",
        config=config,
        method=partial(LDMMethod, data=index, vqgan=space.vqgan(config.vqgan)),
        data=Data(folder, markers, "encode_latents", latent_arrays, are_arrays=True),
        folder=space.ldm(config.name),
        inputs={"latents": index["fingerprint"], "vqgan": index["vqgan"]},
        lineage={"latents": index["spec_hash"], "clips": index["clips"]},
        parts={"vqgan": space.vqgan(config.vqgan)},
        register=True,
    )


def _on_pixels(config: TrainLDM) -> Stage:
    space = config.workspace
    clips = require(space.clips, "index.json", "shard_videos")
    spec = clips["spec"]
    config.model.check(spec["size"], spec["size"])
    markers = load_markers(space.clips, clips, "shard_videos")
    return Stage(
        name="train_ldm",
        config=config,
        method=partial(LDMMethod, data=pixel_index(clips, _rates(space, spec))),
        data=Data(space.clips, markers, "shard_videos", pixel_arrays),
        folder=space.ldm(config.name),
        inputs={"clips": clips["fingerprint"]},
        lineage={"latents": clips["spec_hash"], "clips": clips["fingerprint"]},
        register=True,
    )


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
