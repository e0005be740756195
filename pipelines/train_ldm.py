"""Stage two: train the diffusion model on cached latents.

latents/NAME/*.tar ──▶ Ray Train workers ──▶ checkpoints ──▶ ldm/NAME (a bundle)
"""

from __future__ import annotations

from functools import partial

from pipelines.config.schema import TrainLDM
from pipelines.io import shards
from pipelines.io.workspace import require
from pipelines.training.loader import latent_arrays
from pipelines.training.methods import LDMMethod
from pipelines.training.stage import Stage, run_stage
from pipelines.training.trainer import Data
from vqvdm.errors import UserError


def train_ldm(config: TrainLDM) -> str:
    """Train on ROOT/latents/VQGAN and publish ROOT/ldm/NAME."""
    config.check()
    space = config.workspace
    vqgan = require(space.vqgan(config.vqgan), "config.json", "train_vqgan")
    folder = space.latents(config.vqgan)
    index = require(folder, "index.json", "encode_latents")
    if index["vqgan"] != vqgan["fingerprint"]:
        raise UserError(
            f"{folder} was encoded by another VQGAN ({index['vqgan']}) than "
            f"{space.vqgan(config.vqgan)} ({vqgan['fingerprint']}): "
            "run jobs/encode_latents.py --overwrite"
        )
    config.model.check(*index["shape"][2:])
    markers = shards.load_markers(folder, index["shards"], "encode_latents")
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
