"""The speed of sampling and decoding, on the model's device."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pipelines.cluster.cores import local_cpus
from pipelines.cluster.devices import Devices
from pipelines.evaluation.settings import Evaluate
from pipelines.sampling.worker import SamplingWorker


def time_sampling(config: Evaluate, devices: Devices) -> dict[str, Any]:
    """Seconds for 100 sampling steps and for decoding, one video at a time, without a queue."""
    worker = SamplingWorker(config.workspace.ldm(config.ldm), config, "auto", devices)
    generator = worker.generator
    torch.set_num_threads(local_cpus())  # It is alone.
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

    options = replace(config.options, steps=steps)
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
        "device": torch.cuda.get_device_name() if worker.device.type == "cuda" else "CPU",
        "threads": local_cpus(),
        "guidance": config.guidance,
        "sampler": config.sampler or "the model's best",
        "batch": 1,
    }
