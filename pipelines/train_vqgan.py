"""Stage one: train the tokenizer on clips.

clips/*.tar ──▶ Ray Train workers ──▶ checkpoints ──▶ vqgan/NAME (averaged weights)
"""

from __future__ import annotations

from functools import partial

from pipelines.io.arrays import clip_arrays
from pipelines.io.markers import load_markers
from pipelines.io.workspace import require
from pipelines.training.initial import find_initial, fingerprint_of
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.perceptual import checksum, resolved
from pipelines.training.settings import TrainInflated, TrainVQGAN
from pipelines.training.stage import Stage, run_stage
from pipelines.training.trainer import Data


def train_vqgan(config: TrainVQGAN) -> str:
    """Train on ROOT/clips and publish ROOT/vqgan/NAME."""
    config.check()
    space = config.workspace
    index = require(space.clips, "index.json", "shard_videos")
    spec = index["spec"]
    folder = space.vqgan(config.name)
    initial = find_initial(config, "vqgan", folder)
    config = config.inflating(initial.inflated if initial else None)
    config.check_clips(spec["frames"], spec["size"])
    if isinstance(config, TrainInflated):
        print(f"tokenizer out of an image autoencoder: {config.inflated}", flush=True)
    markers = load_markers(space.clips, index, "shard_videos", details=False)
    perceptual = {}
    if config.perceptual:
        named = resolved(config.perceptual)
        config, perceptual = config.with_perceptual(named), {"perceptual": checksum(named)}
    return run_stage(
        Stage(
            name="train_vqgan",
            config=config,
            method=partial(VQGANMethod, initial=initial),
            data=Data(
                space.clips, markers, "shard_videos", partial(clip_arrays, classes=index["classes"])
            ),
            folder=folder,
            inputs={"clips": index["fingerprint"]} | perceptual | fingerprint_of(initial),
            lineage={"clips": index["spec_hash"]},
        )
    )
