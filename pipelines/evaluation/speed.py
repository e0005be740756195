"""The speed of sampling and decoding, on the model's device.

A step of sampling is not one pass through the denoiser: Heun's method takes two, and guidance
doubles them. So the passes are counted, and 100 steps of one pass each are timed beside.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.cluster.cores import local_cpus
from pipelines.cluster.devices import Devices
from pipelines.evaluation.settings import Evaluate
from pipelines.sampling.worker import SamplingWorker
from vqvdm.diffusion.denoiser import Denoiser
from vqvdm.diffusion.objectives import Predicted
from vqvdm.diffusion.samplers import SAMPLERS, SamplingOptions
from vqvdm.generator import VideoGenerator
from vqvdm.inference import Precision

SINGLE: dict[Predicted, str] = {
    "flow": "euler", "v": "ddim", "epsilon": "ddim", "average_velocity": "euler",
}  # fmt: skip
"""Samplers of one evaluation a step."""


def time_sampling(
    config: Evaluate, devices: Devices, precision: Precision, told: bool
) -> dict[str, Any]:
    """Seconds for 100 sampling steps, for 100 evaluations of the denoiser, and for decoding, one
    video at a time, without a queue; `told` a caption, which is not encoded in this time."""
    worker = SamplingWorker(config.workspace.ldm(config.ldm), config, precision, devices)
    generator = worker.generator
    torch.set_num_threads(local_cpus())  # It is alone.
    asked = _asked(generator, told)
    fps = float(generator.metadata["fps"][0])
    assert config.steps is not None  # resolved for this bundle
    # A distilled model takes some numbers of steps only.
    distilled = "sampling_steps" in generator.metadata
    steps = config.steps if distilled else min(10, config.steps)

    def seconds(work: Any) -> list[float]:
        work()  # the first time is slower
        taken = []
        for _ in range(3):
            since = time.perf_counter()
            work()
            taken.append(time.perf_counter() - since)
        return taken

    def per_100(options: SamplingOptions) -> list[float]:
        taken = seconds(lambda: generator.sample_latents(**asked, fps=fps, options=options).cpu())
        return [each * 100 / steps for each in taken]

    options = replace(config.options, steps=steps)
    z = generator.sample_latents(**asked, fps=fps, options=options)
    by_steps = per_100(options)
    objective: Predicted = generator.metadata["objective"]["name"]
    single = SINGLE[objective]
    by_evaluations = per_100(SamplingOptions(steps, 1.0, single))
    decode = seconds(lambda: generator.vqgan.decode(z).cpu())
    return {
        "speed/seconds_per_100_steps": float(np.mean(by_steps)),
        "speed/seconds_per_100_steps_std": float(np.std(by_steps)),
        "speed/evaluations_per_100_steps": float(
            evaluations(generator, options, told) * 100 / steps
            if distilled
            else evaluations(generator, replace(config.options, steps=100), told)
        ),
        "speed/seconds_per_100_evaluations": float(np.mean(by_evaluations)),
        "speed/seconds_per_100_evaluations_std": float(np.std(by_evaluations)),
        "speed/decode_s": float(np.mean(decode)),
        "device": torch.cuda.get_device_name() if worker.device.type == "cuda" else "CPU",
        "threads": local_cpus(),
        "guidance": config.guidance,
        "sampler": config.sampler or next(iter(SAMPLERS[objective])),
        "batch": 1,
    }


class _Counter(nn.Module):
    """In place of a denoiser: predicts zeros, and counts the videos that pass."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.config, self.inputs = denoiser.config, denoiser.inputs
        place = torch.zeros(1, device=next(denoiser.parameters()).device)
        self.register_parameter("place", nn.Parameter(place))
        self.rows = 0

    def forward(self, z_BCTHW: Tensor, *_: Tensor, **__: Tensor) -> Tensor:
        self.rows += len(z_BCTHW)
        return torch.zeros_like(z_BCTHW)


def evaluations(generator: VideoGenerator, options: SamplingOptions, told: bool) -> int:
    """How often a video passes through the denoiser to be sampled."""
    counter = _Counter(generator.denoiser)
    counting = VideoGenerator(counter, generator.vqgan, generator.metadata)  # type: ignore[arg-type]
    counting.sample_latents(**_asked(counting, told), options=options)
    return counter.rows


def _asked(generator: VideoGenerator, told: bool) -> dict[str, Any]:
    """What one video is asked by: a class, and with `told` a caption, of an embedding that costs
    nothing."""
    if told:
        width = generator.denoiser.inputs.text_width
        generator.text_encoder = lambda texts: torch.ones(len(texts), width)
    label = generator.classes[0] if generator.classes else None
    return {"classes": [label], "prompts": ["a caption"] if told else None}
