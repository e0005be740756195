"""Stage two: train the diffusion model on cached latents.

latents/NAME/*.tar ──▶ Ray Train workers ──▶ checkpoints ──▶ ldm/NAME (a bundle)
"""

from __future__ import annotations

from functools import partial

from pipelines import audit
from pipelines.config.schema import TrainLDM
from pipelines.io import shards, workspace
from pipelines.io.workspace import require
from pipelines.latents import Origin
from pipelines.training.loader import latent_arrays
from pipelines.training.methods import LDMMethod
from pipelines.training.stage import Stage, run_stage
from pipelines.training.trainer import Data


def train_ldm(config: TrainLDM) -> str:
    """Train on ROOT/latents/VQGAN and publish ROOT/ldm/NAME."""
    config.check()
    space = config.workspace
    vqgan = require(space.vqgan(config.vqgan), "config.json", "train_vqgan")
    folder = space.latents(config.vqgan)
    index = require(folder, "index.json", "encode_latents")
    config.model.check(*index["shape"][2:])
    markers = shards.load_markers(folder, index, "encode_latents")
    clips = workspace.published(space.clips, "index.json")
    weights = audit.weights_of(space.vqgan(config.vqgan), vqgan)
    # Latents may have been copied to where there are no clips: they are taken at their word.
    clip_spec = clips["spec_hash"] if clips else index["origin"]["clip_spec"]
    audit.check_origin(folder, index, markers, Origin(weights, clip_spec))
    if clips and clips["fingerprint"] == index["clips"]:
        of_clips = shards.load_markers(space.clips, clips, "shard_videos")
        audit.check_pairs(folder, markers, of_clips)
    elif clips:
        print("note: the clips have changed since the latents were made of them", flush=True)
    return run_stage(
        Stage(
            name="train_ldm",
            config=config,
            method=partial(LDMMethod, data=index),
            data=Data(folder, markers, "encode_latents", latent_arrays),
            folder=space.ldm(config.name),
            inputs={"latents": index["fingerprint"], "vqgan": index["vqgan"]},
            about={"latents": index["spec_hash"], "clips": index["clips"]},
            parts={"vqgan": space.vqgan(config.vqgan)},
            register=True,
        )
    )
