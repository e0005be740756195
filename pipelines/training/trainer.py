"""Ray Train around the loop: starts the workers, restarts them when one dies.

A worker finds its own way back: everything it needs lies in the newest checkpoint.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.train import RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchTrainer, get_device

from pipelines import tracking
from pipelines.config.scale import local_cpus, ray_options
from pipelines.config.schema import TrainJob
from pipelines.io.shards import Marker
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.loader import Loader
from pipelines.training.loop import train
from pipelines.training.world import World
from vqvdm.errors import UserError, find_user_error
from vqvdm.inference import resolve_precision

VALIDATION_CLIPS = 64
ATTEMPTS = 3


@dataclass(frozen=True)
class Data:
    """Where the samples of a training lie and how they are read."""

    folder: str
    markers: list[Marker]
    job: str
    """The job that makes them, and mends them."""
    decode: Any
    """Members of a sample to its tensors."""

    def loader(self, split: str, threads: int = 2) -> Loader | None:
        markers = [marker for marker in self.markers if marker.split == split and marker.keys]
        return Loader(self.folder, markers, self.job, self.decode, threads) if markers else None


@dataclass(frozen=True)
class Plan:
    """All that a worker has to know."""

    config: TrainJob
    method: Any
    """Makes the method from config and world."""
    data: Data
    folder: str
    """Where checkpoints are published."""
    recipe: str
    """Fingerprint of settings and input."""
    tracking_uri: str
    run_id: str
    threads: int


def fit(plan: Plan) -> None:
    """Train on the cluster until all steps are done."""
    ray.init(**ray_options())
    cpus = int(ray.cluster_resources().get("CPU", 0))
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = plan.config.workers
    # A cluster that grows on demand may start without any.
    if cpus and workers > max(cpus, gpus):
        raise UserError(
            f"--num-workers {workers} is more than the cluster has: {cpus} CPUs, {gpus} GPUs"
        )
    scaling = ScalingConfig(num_workers=workers, use_gpu=gpus >= workers)
    for attempt in range(1, ATTEMPTS + 1):
        # Ray Train keeps books of its own; ours are the checkpoints, so its are thrown away.
        books = tempfile.mkdtemp(prefix="vqvdm-train-")
        try:
            TorchTrainer(
                _worker,
                train_loop_config={"plan": plan},
                scaling_config=scaling,
                run_config=RunConfig(storage_path=books, name="train"),
            ).fit()
            return
        except TrainingFailedError as error:
            # What the user has to mend does not get better by trying again.
            if find_user_error(error) or attempt == ATTEMPTS:
                raise
            print(f"a worker failed: going on from the last checkpoint ({error})", flush=True)
        finally:
            shutil.rmtree(books, ignore_errors=True)


def threads_per_worker(config: TrainJob) -> int:
    """Threads that share this machine's cores among the workers."""
    return max(1, local_cpus() // config.workers)


def _worker(arguments: dict[str, Any]) -> None:
    """What each worker runs."""
    plan: Plan = arguments["plan"]
    logging.getLogger("ray").setLevel(logging.WARNING)
    torch.set_num_threads(plan.threads)
    context, device = get_context(), get_device()
    world = World(
        context.get_world_rank(),
        context.get_world_size(),
        device,
        resolve_precision(plan.config.precision, device),
    )
    run = tracking.attach(plan.tracking_uri, plan.run_id) if world.is_first else None
    loader, held_out = plan.data.loader("train"), plan.data.loader("val")
    assert loader is not None
    train(
        plan.method(plan.config, world),
        plan.config,
        world,
        loader,
        lambda: held_out.first(VALIDATION_CLIPS, 16) if held_out else [],
        Checkpoints(plan.folder, plan.recipe, plan.config.keep),
        run,
    )
