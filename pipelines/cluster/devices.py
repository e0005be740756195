"""What a job runs on, as it was decided, and a worker's part of it.

The decision goes to the workers, which do not guess again.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Literal

import torch

from pipelines.cluster.cores import local_cpus
from vqvdm.errors import UserError

Kind = Literal["cpu", "cuda"]
CORE_PART = 0.001
"""Part of a core that Ray reserves for a small task: beside a worker that takes the rest of it."""


@dataclass(frozen=True)
class Devices:
    """The decision."""

    kind: Kind = "cpu"
    workers: int = 1
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for a worker."""
    workers_per_node: int = 1
    words: str = ""
    """One line: what the job runs on."""
    numbers: tuple[int, ...] = ()
    """Numbers of workers that a training may have, most first; none unless they train together."""
    cards: tuple[str, ...] = ()
    """Models of the cluster's GPUs, where the job runs on some."""

    @property
    def resource(self) -> str:
        """What Ray calls what a worker needs most: GPU or CPU."""
        return "GPU" if self.kind == "cuda" else "CPU"

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray reserves for a worker."""
        return {"GPU": self.gpus_per_worker} if self.kind == "cuda" else {"CPU": 1.0}

    def threads(self) -> int:
        """A worker's share of the cores of the machine that it runs on: call it in the worker."""
        return threads(self.workers_per_node)


def threads(workers_here: int) -> int:
    """The share of this machine's cores for each of the workers on it."""
    return max(1, local_cpus() // max(1, workers_here))


def worker_device(kind: Kind) -> torch.device:
    """The device of this worker; `UserError` if it should have a GPU and PyTorch sees none."""
    if kind == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
        raise UserError(
            f"a worker on {socket.gethostname()} was given a GPU, and PyTorch, {built}, "
            "sees none: check the driver (nvidia-smi), CUDA_VISIBLE_DEVICES and the "
            "installed torch there, or pass --device cpu"
        )
    return torch.device(kind)
