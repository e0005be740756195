"""A model that is trained on captions alone makes what prompts say, from clips to videos, and its
student does so in a step."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.encode_latents import latents_index
from pipelines.io.arrays import latent_arrays
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardWriter
from pipelines.latents.captions import captions_by, publish_encoder
from pipelines.latents.encoder import EncodePlan, EncodeShard, Origin
from pipelines.latents.inputs import Inputs
from pipelines.latents.settings import EncodeLatents
from pipelines.training.loader import Loader
from pipelines.training.methods.denoiser import DenoiserMethod
from pipelines.training.methods.distil import DistilMethod, Teacher
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.settings import DistillLDM, TrainLDM
from pipelines.training.world import World
from pipelines.video.lossless import encode_lossless
from tests.text_encoders import write_encoder
from vqvdm import VideoGenerator
from vqvdm.checkpoint import load_config, save_model
from vqvdm.diffusion.unet import UNetConfig
from vqvdm.tokenizer.pixels import PIXELS, Pixels

COLOURS = {"a red ball": (220, 30, 30), "a blue ball": (30, 30, 220)}
SHAPE = 2, 4, 4
"""Few pixels: much noise hides the colour, so that a net has to go by the caption."""
CLIPS = 16
STEPS, STUDENT_STEPS = 300, 20
SETTINGS: dict[str, Any] = {
    "batch_size": 8, "lr": 1e-2, "warmup": 5, "ema_decay": 0.9, "precision": "fp32"
}  # fmt: skip


def clips_of_colours(folder: str) -> Marker:
    """A shard of still clips without classes: what colour they are, the caption tells alone."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder, "train-000000") as writer:
        for number, caption in zip(range(CLIPS), itertools.cycle(COLOURS), strict=False):
            video = np.clip(COLOURS[caption] + rng.normal(0, 8, (*SHAPE, 3)), 0, 255)
            metadata = {"label": None, "fps": 8.0, "caption": caption}
            mkv = encode_lossless(video.astype(np.uint8), 8)
            writer.add(f"{number:02}", {"mkv": mkv, "json": json.dumps(metadata).encode()})
        return writer.publish(["videos"], "clips", "made", {})


def encoded(root: Path) -> tuple[Marker, dict[str, Any]]:
    """Their latents, which are pixels, and embeddings; and the index."""
    save_model(root / "vqgan", Pixels(), {"model": PIXELS})
    source, folder = str(write_encoder(root / "bert")), str(root / "latents")
    captions = captions_by(source, "caption")
    publish_encoder(source, folder, captions)
    clips, origin = clips_of_colours(str(root / "clips")), Origin("none", "clips")
    plan = EncodePlan(str(root / "clips"), clips, folder, "spec", origin, captions=captions)
    encoder = EncodeShard(str(root / "vqgan"), batch_size=8, precision="fp32")
    marker = Marker.from_json(encoder({"plan": plan, "verify": False})["marker"])
    told: dict[str, Any] = {"fingerprint": "0", "classes": []}
    inputs = Inputs(EncodeLatents(), told, told, [clips], origin, [3, *SHAPE], None, captions)
    index = latents_index(inputs, [marker], "spec")
    return marker, index | {"in_pixels": True}


@dataclass(frozen=True)
class Encoded:
    """A root with latents: their marker and index."""

    root: Path
    marker: Marker
    index: dict[str, Any]

    def publish(self, method: DenoiserMethod, name: str) -> Path:
        """What some seconds of training make of them."""
        decode, folder = partial(latent_arrays, classes=[]), str(self.root / "latents")
        loader = Loader(folder, [self.marker], "encode_latents", decode, memory_gb=1.0)
        steps = range(method.config.steps)
        for step, batch in zip(steps, loader.train(0, 0, 8), strict=False):
            method.train_step(batch, step)
        loader.close()
        method.export(self.root / name)
        shutil.copytree(self.root / "latents/text_encoder", self.root / name / "text_encoder")
        return self.root / name


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("root")
    threads = torch.get_num_threads()
    marker, index = encoded(root)
    torch.set_num_threads(threads)
    assert index["text"]["clips"] == CLIPS
    return Encoded(root, marker, index)


@pytest.fixture(scope="module")
def bundle(latents: Encoded) -> Path:
    net = UNetConfig(width=16, multipliers=(1,), depths=(1,), head_width=8)
    config = TrainLDM(steps=STEPS, model=net, **SETTINGS)
    return latents.publish(LDMMethod(config, World(), latents.index), "ldm")


def colours_of(videos_NTHWC: np.ndarray) -> list[str]:
    """Which of the colours each video is nearest to."""
    mean_N13 = videos_NTHWC.mean((1, 2, 3))[:, None]
    nearest_N = np.abs(mean_N13 - np.array(list(COLOURS.values()))).sum(-1).argmin(1)
    return [list(COLOURS)[index] for index in nearest_N]


@pytest.mark.long
def test_a_prompt_decides_what_is_made(bundle: Path) -> None:
    generator = VideoGenerator.load(bundle)
    prompts = list(COLOURS) * 4
    videos = generator.sample(prompts=prompts, fps=8.0, steps=8, seed=3)
    assert colours_of(videos) == prompts
    # Of the same noise: it is the prompt that decides.
    same = [(3, 0)] * 2
    assert colours_of(generator.sample(prompts=list(COLOURS), steps=8, seed=same)) == list(COLOURS)
    for video, prompt in zip(videos, prompts, strict=True):
        assert video.mean((0, 1, 2)) == pytest.approx(COLOURS[prompt], abs=40)


@pytest.mark.long
def test_a_student_makes_what_prompts_say_in_a_step(latents: Encoded, bundle: Path) -> None:
    net = Teacher(str(bundle), load_config(bundle)).net()
    config = DistillLDM(steps=STUDENT_STEPS, **SETTINGS)
    student = latents.publish(DistilMethod(config, World(), latents.index, net), "student")
    shutil.copytree(bundle / "vqgan", student / "vqgan")
    generator, prompts = VideoGenerator.load(student), list(COLOURS) * 4
    for steps in (1, 2, 4):
        videos = generator.sample(prompts=prompts, fps=8.0, steps=steps, seed=3)
        assert colours_of(videos) == prompts
        for video, prompt in zip(videos, prompts, strict=True):
            assert video.mean((0, 1, 2)) == pytest.approx(COLOURS[prompt], abs=40)


@pytest.mark.long
def test_without_a_prompt_any_of_them_is_made(bundle: Path) -> None:
    videos = VideoGenerator.load(bundle).sample([None] * 16, fps=8.0, steps=8)
    assert set(colours_of(videos)) == set(COLOURS)


@pytest.mark.long
def test_a_bundle_tells_what_reads_its_prompts(bundle: Path) -> None:
    told = load_config(bundle)["text"]
    assert told["column"] == "caption" and told["width"] == 32
    assert set(told["files"]) == {path.name for path in (bundle / "text_encoder").iterdir()}
