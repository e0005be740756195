"""The worker that makes videos for sampling and evaluation.

Shapes: N videos, T frames, H height, W width.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from pipelines.io import storage
from pipelines.sampling.settings import Sampling
from pipelines.video import Frames
from vqvdm.generator import VideoGenerator
from vqvdm.inference import Precision

BUNDLE = (
    "config.json",
    "model.safetensors",
    "vqgan/config.json",
    "vqgan/model.safetensors",
)


@dataclass(frozen=True)
class Request:
    """One video to make."""

    label: str | None
    number: int
    fps: float

    @property
    def folder(self) -> str:
        return self.label or "unlabelled"

    @property
    def file(self) -> str:
        return f"{self.folder}/{self.number:05d}.mp4"

    def seed(self, base: int) -> tuple[int, ...]:
        """The seed of this video, which does not depend on the other requests."""
        name = hashlib.sha256((self.label or "").encode()).digest()[:8]
        return base, int.from_bytes(name), self.number


class SamplingWorker:
    """Holds the generator; turns rows of requests into rows of videos."""

    def __init__(self, bundle: str, config: Sampling, precision: Precision, threads: int) -> None:
        torch.set_num_threads(threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.device, self.config = device, config
        self._bundle, self._precision = bundle, precision

    @cached_property
    def generator(self) -> VideoGenerator:
        """Loaded at first use: an error at the start of an actor loses its class, and could not be
        reported in one line."""
        with tempfile.TemporaryDirectory(prefix="vqvdm-") as folder:
            storage.download_folder(self._bundle, Path(folder), BUNDLE)
            return VideoGenerator.load(folder, self.device, self._precision)

    def videos(self, requests: Sequence[Request]) -> Frames:
        """Videos uint8 (N, T, H, W, 3) of requests of one frame rate."""
        config = self.config
        return self.generator.sample(
            [request.label for request in requests],
            requests[0].fps,
            config.steps,
            config.guidance,
            [request.seed(config.seed) for request in requests],
            config.sampler,
            config.guidance_interval,
        )

    def __call__(self, row: dict) -> dict:
        """Takes {"requests": [Request]}, adds {"videos": uint8 (N, T, H, W, 3)}."""
        return row | {"videos": self.videos(row["requests"])}


def in_batches(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """Requests in groups of one frame rate and at most `size`."""
    groups = []
    for fps in dict.fromkeys(request.fps for request in requests):
        same = [request for request in requests if request.fps == fps]
        groups += [same[start : start + size] for start in range(0, len(same), size)]
    return groups
