"""Ray Train around the loop: starts the workers, restarts them when one dies.

A restarted worker needs only the newest checkpoint. After SIGTERM to the driver or to a worker,
all workers save before they end.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import ray
import torch
from ray import PlacementGroupID
from ray.exceptions import RayError
from ray.train import RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)

from pipelines.cluster.devices import Devices, threads, worker_device
from pipelines.cluster.elastic import watching_for_more, workers_with_room
from pipelines.cluster.gpu_memory import enough_memory
from pipelines.cluster.join import find_user_error
from pipelines.io import lock
from pipelines.io.markers import Marker
from pipelines.settings import resolve_switch
from pipelines.tracking.run import Run
from pipelines.training import stop
from pipelines.training.board import Board
from pipelines.training.checkpoints import AgreedCheckpoints, Reference
from pipelines.training.gauges import exporter
from pipelines.training.loader import Batch, Loader
from pipelines.training.loop import print_line, train
from pipelines.training.messages import (
    drawing_bar,
    has_begun,
    poll_for_drain,
    poll_for_stop,
    relaying,
    run_of,
)
from pipelines.training.settings import TrainJob
from pipelines.training.world import World
from vqvdm.errors import UserError
from vqvdm.inference import (
    Precision,
    common_precision,
    compiles_by_default,
    fast_precisions,
    resolve_precision,
)

VALIDATION_CLIPS = 64
ATTEMPTS = 3
"""Failures in a row without a new checkpoint between them."""


@dataclass(frozen=True)
class Data:
    """The folder of the samples of a training, and how they are read."""

    folder: str
    markers: list[Marker]
    job: str
    """The job that makes and repairs them."""
    decode: Any
    """Members of a sample to its tensors."""
    are_arrays: bool = False
    """Whether samples are stored as arrays of one shape, so that they may be kept in memory."""

    @property
    def samples(self) -> int:
        """Samples for training."""
        return sum(len(marker.keys) for marker in self.markers if marker.split == "train")

    def loader(self, split: str, **options: Any) -> Loader | None:
        """A loader with the options of `Loader`; None where the split is empty."""
        markers = [marker for marker in self.markers if marker.split == split and marker.keys]
        return Loader(self.folder, markers, self.job, self.decode, **options) if markers else None


@dataclass(frozen=True)
class Plan:
    """All that a worker needs."""

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
    devices: Devices = field(default_factory=Devices)
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints of the training data."""
    owner: str | None = None
    """Id of the holder of the folder's lock."""
    bar: bool = False
    """Whether the driver has a terminal and draws a bar."""
    node: str = ""
    """Id of the driver's node."""
    name: str = field(default_factory=lambda: f"vqvdm-{uuid.uuid4().hex}")
    """Name of the board in Ray."""

    identity: Mapping[str, Any] = field(default_factory=dict)
    """What markers tell of the training besides."""
    resume: Reference | None = None
    """The checkpoint that all workers resume from."""
    precision: Precision | None = None
    """What that checkpoint was computed in, if it tells."""
    attempt: str = ""
    """Id of an attempt, which the driver may end."""

    def checkpoints(self) -> AgreedCheckpoints:
        computed = {"precision": self.precision} if self.precision else {}
        identity = {**self.identity, **computed}
        options = (self.recipe, self.config.keep, self.inputs, self.owner, identity)
        found = AgreedCheckpoints(self.folder, *options)
        found.agreed = self.resume
        return found


def fit(plan: Plan) -> None:
    """Train on the cluster until all steps are done, or the driver is asked to stop."""
    # The board may run on any node, and restarts on another one if its node dies.
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1)(Board)
    board = actor.options(name=plan.name).remote()
    forwarding = stop.forwarding(partial(_stop, board, plan))
    bar = drawing_bar(board) if plan.bar else nullcontext()
    plan = replace(plan, node=ray.get_runtime_context().get_node_id())
    with forwarding, relaying(board, plan.tracking_uri, plan.run_id), bar:
        _until_done(plan, partial(_attempt, board))


def _stop(board: Any, plan: Plan) -> None:
    """Ask the workers to save and end."""
    print("stopping: the workers save first (Ctrl-C again does not wait for them)", flush=True)
    try:
        ray.get(board.request_stop.remote())
    except RayError as error:
        print(f"the workers cannot be told, Ray has ended too: {_first_line(error)}", flush=True)
    # Whoever asked may kill the job before it can say so at its end.
    with closing(Run(plan.tracking_uri, plan.run_id)) as run:
        run.state("KILLED")


def _until_done(plan: Plan, attempt: Callable[[Plan], BaseException | None]) -> None:
    """Attempt the training until all steps are done, as long as it gets further."""
    checkpoints = plan.checkpoints()
    checkpoints.sweep()
    found, failures = checkpoints.newest_intact(), 0
    while (before := found.step if found else 0) < plan.config.steps and not stop.requested():
        begun = (checkpoints.found() or {}).get("precision") if found else None
        failure = attempt(replace(plan, resume=found, precision=begun))
        found = checkpoints.newest_intact()
        reached = found.step if found else 0
        failures = failures + 1 if reached <= before else int(failure is not None)
        if failure and (find_user_error(failure) or failures >= ATTEMPTS):
            # Another attempt does not correct a user's mistake.
            raise failure
        if failures >= ATTEMPTS:
            raise UserError(
                f"the workers have trained {failures} times without a new checkpoint in "
                f"{plan.folder}: check that every node writes there, or pass an s3:// URI"
            )
        if reached < plan.config.steps and not stop.requested():
            why = f"a worker was lost ({_first_line(failure)})" if failure else "workers have ended"
            print(f"{why}: resuming from step {reached}", flush=True)


def _attempt(board: Any, plan: Plan) -> BaseException | None:
    """Train on the cluster, with as many workers as there is room for, until it is done or there
    is room for more; returns why that failed."""
    workers, attempt = workers_with_room(plan.devices, stop.requested), uuid.uuid4().hex
    if workers is None:
        return None
    if workers < plan.devices.workers:
        print(f"training with {workers} workers of at most {plan.devices.workers}", flush=True)

    def grow(more: int) -> None:
        print(f"the cluster has room for {more} workers: saving first", flush=True)
        board.end_attempt.remote(attempt)

    devices = replace(plan.devices, workers=workers)
    try:
        with watching_for_more(plan.devices, workers, partial(has_begun, board, attempt), grow):
            _fit_once(replace(plan, devices=devices, attempt=attempt))
    except (TrainingFailedError, RayError) as error:
        _free_what_is_left()
        return error
    return None


def _fit_once(plan: Plan) -> None:
    devices = plan.devices
    scaling = ScalingConfig(num_workers=devices.workers, use_gpu=devices.kind == "cuda")
    # Ray Train's run directory is not needed: checkpoints lie under the root.
    run_directory = tempfile.mkdtemp(prefix="vqvdm-train-")
    try:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"plan": plan},
            torch_config=_TorchConfig(),
            scaling_config=scaling,
            run_config=RunConfig(storage_path=run_directory, name="train"),
        )
        stop.beside(trainer.fit)
    finally:
        shutil.rmtree(run_directory, ignore_errors=True)


def _free_what_is_left() -> None:
    """Free what a dead controller had reserved: Ray keeps it as long as this job lasts."""
    # The id of a placement group ends with that of the job that made it.
    job = ray.get_runtime_context().get_job_id()
    for group_id, group in placement_group_table().items():
        if group_id.endswith(job) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group_id))))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class _TorchBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Ray's set-up of a process group, and a signal handler for SIGTERM in each worker.

    Only the main thread of a process may handle signals, and the loop runs in another one.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        if worker_group.get_resources_per_worker().get("GPU", 0):
            worker_group.execute(worker_device, "cuda")  # NCCL would say less.
        super().on_start(worker_group, backend_config)
        worker_group.execute(stop.install_handler)


class _TorchConfig(TorchConfig):
    @property
    def backend_cls(self) -> type:
        return _TorchBackend


def _worker(arguments: dict[str, Any]) -> None:
    """What each worker runs."""
    plan: Plan = arguments["plan"]
    logging.getLogger("ray").setLevel(logging.WARNING)
    if plan.owner:
        lock.refuse_unseen(plan.folder, plan.owner)
    context = get_context()
    share = threads(context.get_local_world_size())
    torch.set_num_threads(share)
    device = get_device() if plan.devices.kind == "cuda" else worker_device("cpu")
    world = World(
        context.get_world_rank(),
        context.get_world_size(),
        device,
        channels_last=resolve_switch(plan.config.channels_last, auto=True),
        compiled=resolve_switch(plan.config.compile, auto=compiles_by_default(device)),
        activation_checkpointing=plan.config.activation_checkpointing,
    )
    plan = replace(plan, precision=settled_precision(plan, world))
    world = replace(world, dtype=resolve_precision(str(plan.precision), device))
    board = ray.get_actor(plan.name)
    run = run_of(board, plan.tracking_uri, plan.run_id, plan.node) if world.is_first else None
    pinned = resolve_switch(plan.config.pin_memory, auto=True) and device.type == "cuda"
    loader = plan.data.loader(
        "train",
        threads=plan.config.loader_threads or max(2, share),
        cache_gb=plan.config.cache_gb,
        pinned=pinned,
        memory_gb=plan.config.memory_gb if plan.data.are_arrays else 0.0,
        name=plan.name,
    )
    assert loader is not None
    if context.get_local_rank() == 0:
        for words in loader.advice():
            print(words, flush=True)
    polls = partial(poll_for_stop, board, plan.attempt), partial(poll_for_drain, world.is_first)
    for poll in polls:
        threading.Thread(target=poll, daemon=True).start()
    logging_run = closing(run) if run else nullcontext()
    measuring = run.system_metrics() if run else nullcontext()
    with closing(loader), logging_run, measuring, enough_memory(cure_for_memory(plan.config)):
        train(
            plan.method(plan.config, world),
            plan.config,
            world,
            loader,
            validation_batches(plan),
            plan.checkpoints(),
            run,
            stop.requested,
            board.report.remote if plan.bar else print_line,
            exporter(plan.folder),
        )


def cure_for_memory(config: TrainJob) -> str:
    """The flags with which a training takes less memory; they change nothing else of it."""
    parts = f"--accumulate {2 * config.accumulate}"
    if config.activation_checkpointing:
        return f"pass {parts}, which takes the same steps in more parts"
    return f"pass --activation-checkpointing, and if that is not enough, {parts}"


def settled_precision(plan: Plan, world: World) -> Precision:
    """The arithmetic of all workers: their gradients are averaged, and those of fp16 are scaled.

    A training continues in the half precision that it was begun in, unless a worker would emulate
    that. One that was begun in fp32, for want of better, takes what the workers are fast at now.
    """
    if plan.config.precision != "auto":
        return plan.config.precision
    fast = world.gather_objects(fast_precisions(world.device))
    begun = None if plan.precision == "fp32" else plan.precision
    best, settled = common_precision(fast), common_precision(fast, begun)
    if world.is_first and begun and settled != begun:
        words = f"which not all workers are fast at: continuing in {settled}"
        print(f"note: this training was begun in {begun}, {words}", flush=True)
    elif world.is_first and settled != best:
        print(f"continuing in {settled}, as this training was begun", flush=True)
    return settled


def validation_batches(plan: Plan) -> Callable[[], list[Batch]]:
    """The batches of a validation: read when they are first asked for, and kept."""

    @cache
    def read() -> list[Batch]:
        loader = plan.data.loader("val", cache_gb=plan.config.cache_gb, name=plan.name)
        if loader is None:
            return []
        with closing(loader):
            return list(loader.first(VALIDATION_CLIPS, 16))

    return read
