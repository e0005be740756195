"""The worker: samples, decodes or reconstructs a portion of videos, and watches them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipelines.config.scale import local_cpus
from pipelines.config.schema import Evaluate
from pipelines.evaluation.draw import read_picks
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.observe import (
    FORMAT,
    Instruments,
    Observation,
    Observer,
    kept,
    reconstructor,
)
from pipelines.evaluation.portions import Portion
from pipelines.generation import Generate
from pipelines.io import storage
from pipelines.io.shards import Marker
from pipelines.io.video import Frames, decode_clip
from pipelines.training.loader import Loader, clip_arrays
from vqvdm.diffusion.samplers import SamplingOptions
from vqvdm.metrics.frame_classifier import train_frame_classifier

AT_ONCE = 16
"""Clips a worker holds at once."""
DETECTOR_CLIPS = 1500
"""At most so many training clips are shown to the classifier of frames."""


class Watch:
    """Holds instruments and, where they are needed, generator and tokenizer."""

    def __init__(
        self, inputs: Inputs, instruments: Instruments, portions: Sequence[Portion], threads: int
    ) -> None:
        torch.set_num_threads(threads)
        self.portions = portions
        self.inputs, self.observer, self.threads = inputs, Observer(instruments), threads
        self.space = inputs.config.workspace
        self._generate: Generate | None = None
        self._reconstruct: Any = None

    def __call__(self, row: dict) -> dict:
        """Takes {"place": which of the portions}, adds {"seen": bytes of an observation}."""
        portion = self.portions[row["place"]]
        make = self._samples if portion.requests else self._clips
        data = kept(self.space.features, portion.key, lambda: make(portion))
        return row | {"seen": data}

    def _samples(self, portion: Portion) -> Observation:
        config = self.inputs.config
        bundle = self.space.ldm(config.ldm)
        self._generate = self._generate or Generate(bundle, config, "auto", self.threads)
        videos = self._generate.videos(portion.requests)
        classes = self.inputs.bundle["classes"]
        index_N = [classes.index(r.label) if r.label else -1 for r in portion.requests]
        fps_N = [request.fps for request in portion.requests]
        seen = self.observer.watch(videos, np.array(index_N), np.array(fps_N))
        if portion.show:
            seen["shown"] = videos[list(portion.show)]
        return seen

    def _clips(self, portion: Portion) -> Observation:
        assert portion.marker
        clips = read_picks(self.space.clips, portion.marker, portion.picks)
        parts = []
        for start in range(0, len(clips), AT_ONCE):
            some = clips[start : start + AT_ONCE]
            videos = np.stack([decode_clip(clip.mp4) for clip in some])
            if portion.group == "train":
                parts.append(self.observer.features(videos))
            elif portion.group == "reconstructed":
                show = [i - start for i in portion.show if start <= i < start + AT_ONCE]
                parts.append(self._compare(videos, show))
            else:
                index_N = np.array([clip.class_index for clip in some])
                fps_N = np.array([clip.fps for clip in some])
                parts.append(self.observer.watch(videos, index_N, fps_N))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _compare(self, videos: Frames, show: list[int]) -> Observation:
        bundle = self.space.ldm(self.inputs.config.ldm)
        self._reconstruct = self._reconstruct or reconstructor(bundle)
        seen = self.observer.compare(videos, self._reconstruct)
        made = seen.pop("reconstructed")
        return seen | {"shown": videos[show], "shown_made": made[show]}


def frame_state(inputs: Inputs, markers: Sequence[Marker]) -> bytes:
    """Weights of a classifier of single frames, trained on training clips; kept for next time."""
    config, classes = inputs.config, inputs.bundle["classes"]

    def train() -> Observation:
        shards = [marker for marker in markers if marker.split == "train" and marker.keys]
        loader = Loader(config.workspace.clips, shards, "shard_videos", clip_arrays, local_cpus())
        parts = [batch.tensors for batch in loader.first(DETECTOR_CLIPS, 32)]
        video = torch.cat([part["video"] for part in parts]).numpy()
        label = torch.cat([part["class_index"] for part in parts]).numpy()
        torch.set_num_threads(local_cpus())
        net = train_frame_classifier(video, label, len(classes), config.detector_steps)
        return {name: tensor.numpy() for name, tensor in net.state_dict().items()}

    made_from = [FORMAT, "frames", inputs.index["fingerprint"], config.detector_steps]
    return kept(config.workspace.features, storage.fingerprint(made_from), train)


def time_sampling(config: Evaluate) -> dict[str, Any]:
    """Seconds for 100 sampling steps and for decoding, one video at a time, without a queue."""
    torch.set_num_threads(local_cpus())
    made = Generate(config.workspace.ldm(config.ldm), config, "auto", local_cpus())
    generator = made.generator
    label = generator.classes[0] if generator.classes else None
    fps = float(generator.metadata["fps"][0])
    steps = min(10, config.steps)

    def seconds(work: Any) -> list[float]:
        work()  # the first time is slower
        taken = []
        for _ in range(3):
            since = time.perf_counter()
            work()
            taken.append(time.perf_counter() - since)
        return taken

    options = SamplingOptions(steps, config.guidance, config.sampler)
    z = generator.sample_latents([label], fps, options=options)
    per_100 = [
        taken * 100 / steps
        for taken in seconds(lambda: generator.sample_latents([label], fps, options=options).cpu())
    ]
    decode = seconds(lambda: generator.vqgan.decode(z).cpu())
    return {
        "speed/seconds_per_100_steps": float(np.mean(per_100)),
        "speed/seconds_per_100_steps_std": float(np.std(per_100)),
        "speed/decode_s": float(np.mean(decode)),
        "device": torch.cuda.get_device_name() if made.device.type == "cuda" else "CPU",
        "threads": local_cpus(),
        "guidance": config.guidance,
        "sampler": config.sampler or "the model's best",
        "batch": 1,
    }
