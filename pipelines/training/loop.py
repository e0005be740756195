"""The one training loop: step, log, validate, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import torch

from pipelines.tracking.run import Run
from pipelines.training.checkpoints import Checkpoints, KeyLog
from pipelines.training.loader import Batch, Loader
from pipelines.training.methods.base import Method
from pipelines.training.optimise import refuse_standstill
from pipelines.training.settings import TrainJob
from pipelines.training.world import World
from pipelines.training.writer import CheckpointWriter
from pipelines.video.encoder import encode_h264
from vqvdm.inference import prepare_device

CHECK_EVERY = 8
"""Steps on a GPU between two checks for skipped steps and for requests to stop."""

Report = Callable[[int, int, str], None]
"""Takes the step, the number of steps, and a summary in words."""
Export = Callable[[Mapping[str, float]], None]
"""Takes figures by their names in MLflow."""


def print_line(step: int, steps: int, words: str) -> None:
    """Report on a line of its own, for a log."""
    print(f"step {step}/{steps}  {words}", flush=True)


def train(
    method: Method,
    config: TrainJob,
    world: World,
    loader: Loader,
    validation: Callable[[], Iterable[Batch]],
    checkpoints: Checkpoints,
    run: Run | None,
    stop_requested: Callable[[], bool] = lambda: False,
    report: Report = print_line,
    export: Export = lambda values: None,
) -> int:
    """Train to `config.steps` from the newest checkpoint on; returns the step that was reached.

    One worker gets a `run`, and calls `report` and `export` regularly. `stop_requested` is polled:
    if it is true for any worker, all workers save and end.
    """
    prepare_device(world.device, tf32=world.dtype != torch.float32)
    state = checkpoints.newest(verbose=world.is_first)
    step, position = 0, 0
    validation_metrics: dict[str, float] = {}
    if state is not None:
        step, position = state["step"], state["position"]
        validation_metrics = state["validation"]
        method.load(state["method"])
        if world.is_first:
            print(f"resuming at step {step}", flush=True)
    elif (taken := method.start()) and world.is_first:
        print(f"--init-from: {taken}", flush=True)
    # One worker has the keys of all.
    keys = KeyLog(checkpoints.place) if config.log_keys and world.is_first else None
    if keys:
        keys.forget_after(step)
    batches = loader.train(config.seed, position, config.batch_size, world.rank, world.size)
    clock = Clock(step)
    stop = False
    with CheckpointWriter(checkpoints, world.device) as writer:
        while step < config.steps and not stop:
            writer.check()
            with clock.waiting():
                batch = next(batches)
            metrics = method.train_step(batch, step)
            step, position = step + 1, position + config.batch_size
            last = step == config.steps
            due = step % config.checkpoint_every == 0 or last
            # Reading a number waits for the GPU, so it is not done at every step.
            if due or world.device.type == "cpu" or step % CHECK_EVERY == 0:
                refuse_standstill(metrics, step, config.steps, writer.newest_step)
                stop = world.any(stop_requested())
            consumed = world.gather_keys(batch.keys) if config.log_keys else []
            if keys:
                keys.note(step, consumed)
            if step % config.log_every == 0 or last:
                _log(world.mean(metrics), step, config, clock, run, report, export)
            if (step % config.validate_every == 0 or last) and run:
                validation_metrics = _validate(method, validation(), step, run)
            if (due or stop) and world.is_first:
                if keys:
                    keys.publish(step)
                writer.save(
                    step,
                    {
                        "step": step,
                        "position": position,
                        "validation": validation_metrics,
                        "method": method.state(),
                    },
                )
    world.barrier()
    if stop and world.is_first and step < config.steps:
        print(f"stop requested: saved at step {step}", flush=True)
    return step


class Clock:
    """Speed, and time spent waiting for data, since the last line of the log."""

    def __init__(self, step: int) -> None:
        self.step, self.wait_s, self.since = step, 0.0, time.monotonic()

    def waiting(self) -> _Waiting:
        return _Waiting(self)

    def lap(self, step: int) -> tuple[float, float]:
        """Steps a second and seconds waited for data a step, since the last lap."""
        steps, seconds = step - self.step, time.monotonic() - self.since
        waited = self.wait_s
        self.step, self.wait_s, self.since = step, 0.0, time.monotonic()
        return steps / seconds, waited / steps


class _Waiting:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.clock.wait_s += time.monotonic() - self.started


def _log(
    means: Mapping[str, float],
    step: int,
    config: TrainJob,
    clock: Clock,
    run: Run | None,
    report: Report,
    export: Export,
) -> None:
    if run is None:
        return
    rate, waited_s = clock.lap(step)
    left = f"{(config.steps - step) / rate:.0f} s left"
    if step < config.slower_from * config.steps < config.steps:
        left = f"at least {left}"  # The discriminators, which join later, take time too.
    values = {f"train/{name}": value for name, value in means.items()}
    values |= {
        "throughput/clips_per_s": rate * config.batch_size,
        "time/data_wait_s": waited_s,
    }
    run.metrics(values, step)
    export(values)
    speed = f"{rate * config.batch_size:.1f} clips/s  {left}"
    skipped = f"{means['skipped_steps']:.0f} steps skipped  " if means["skipped_steps"] else ""
    report(step, config.steps, f"loss {means['loss']:.4f}  {skipped}{speed}")


def _validate(method: Method, batches: Iterable[Batch], step: int, run: Run) -> dict[str, float]:
    kept = list(batches)
    if not kept:
        return {}
    values = method.validate(kept)
    run.metrics(values, step)
    print("  ".join(f"{name} {value:.3f}" for name, value in values.items()), flush=True)
    small = Batch(kept[0].keys[:4], {k: v[:4] for k, v in kept[0].tensors.items()})
    frames = method.preview(small)
    if frames is not None:
        run.bytes(encode_h264(frames, 8.0), f"previews/step-{step:06d}.mp4")
        run.image(frames[len(frames) // 2], "preview", step)
    return values
