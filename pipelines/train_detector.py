"""Training a detector of one's own: a network that classifies labelled clips.

clips/train ──▶ training, where a GPU is ──▶ detectors/NAME/detector.pt (TorchScript)

With it, inception score and Fréchet distance are meaningful on any labelled data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from einops import rearrange
from torch import Tensor

from pipelines.cluster.cores import local_cpus
from pipelines.cluster.devices import Kind, worker_device
from pipelines.cluster.gpu_memory import enough_memory
from pipelines.cluster.placement import choose_devices, describe_devices
from pipelines.evaluation.settings import TrainDetector
from pipelines.io import checksums, lock, other_settings, storage, workspace
from pipelines.io.arrays import clip_arrays
from pipelines.io.markers import Marker, load_markers
from pipelines.io.progress import Progress
from pipelines.io.workspace import require
from pipelines.tracking.start import start_run
from pipelines.training.loader import Loader
from vqvdm.errors import UserError
from vqvdm.metrics.clip_classifier import ClipClassifier, save_torchscript, train_clip_classifier

FORMAT = 1
"""Changed whenever the same clips and settings would give another detector."""
JUDGED_CLIPS = 512
"""Clips to measure the accuracy on, at most."""
JUDGED_SHARDS = 8
"""Shards to take them from, at least."""


def _pairs(loader: Loader, config: TrainDetector) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in loader.train(config.seed, 0, config.batch_size):
        yield (
            rearrange(batch.tensors["video"], "b t h w c -> b c t h w"),
            batch.tensors["class_index"],
        )


def _train_under_lock(
    config: TrainDetector, markers: list[Marker], classes: list[str], kind: Kind, owner: str
) -> dict[str, Any]:
    """`_train` in a task, where the lock of `owner` has to be seen."""
    lock.refuse_unseen(config.workspace.detector(config.name), owner)
    less = f"pass --batch-size {max(1, config.batch_size // 2)}, or a smaller --size"
    with enough_memory(less):
        return _train(config, markers, classes, kind)


def _train(
    config: TrainDetector, markers: list[Marker], classes: list[str], kind: Kind
) -> dict[str, Any]:
    """Train and measure; returns the TorchScript file's bytes and the figures."""
    device = worker_device(kind)
    torch.set_num_threads(local_cpus())
    torch.manual_seed(config.seed)
    folder = config.workspace.clips
    of = {
        split: [each for each in markers if each.split == split and each.keys]
        for split in ("train", "val")
    }
    loader = partial(
        Loader,
        folder,
        job="shard_videos",
        decode=partial(clip_arrays, classes=classes),
        threads=local_cpus(),
    )
    train = loader(markers=of["train"])
    for words in train.advice():
        print(words, flush=True)
    net = ClipClassifier(len(classes), config.size).to(device)
    progress = Progress("steps", config.steps)
    losses: list[float] = []
    for loss in train_clip_classifier(
        net, _pairs(train, config), config.steps, config.lr, config.seed
    ):
        progress.add(1)
        losses = [*losses[-19:], loss]
    train.close()
    figures = {
        "train/loss": sum(losses) / len(losses),
        **{
            f"{split}/accuracy": _accuracy(net, loader(markers=judged_on(found)), device)
            for split, found in of.items()
            if found
        },
    }
    with tempfile.TemporaryDirectory(prefix="vqvdm-") as temporary:
        path = Path(temporary, "detector.pt")
        save_torchscript(net, path)
        return {"file": path.read_bytes(), "figures": figures}


def judged_on(markers: list[Marker]) -> list[Marker]:
    """Shards, evenly spread, that suffice for `JUDGED_CLIPS`: a remote one is fetched whole."""
    for count in range(JUDGED_SHARDS, len(markers)):
        chosen = [markers[i] for i in np.linspace(0, len(markers) - 1, count).round().astype(int)]
        if sum(len(marker.keys) for marker in chosen) >= JUDGED_CLIPS:
            return chosen
    return markers


@torch.inference_mode()
def _accuracy(net: ClipClassifier, loader: Loader, device: torch.device) -> float:
    """Share of clips, evenly spread, that are classified correctly."""
    right = count = 0
    for batch in loader.first(JUDGED_CLIPS, 16):
        videos = rearrange(batch.tensors["video"], "b t h w c -> b c t h w")
        found = net(videos.to(device)).argmax(1).cpu()
        right += int((found == batch.tensors["class_index"]).sum())
        count += len(found)
    return right / count


def train_detector(config: TrainDetector) -> str:
    """Train on ROOT/clips and publish ROOT/detectors/NAME."""
    config.check()
    space = config.workspace
    index = require(space.clips, "index.json", "shard_videos")
    classes = index["classes"]
    if len(classes) < 2:
        raise UserError(
            f"{space.clips} has {len(classes) or 'no'} classes: a detector learns to classify "
            "labelled clips; cut them with labels, or evaluate with builtin"
        )
    workspace.refuse_no_training_clips(space.clips, index["counts"].get("train", 0))
    if config.batch_size == 1:
        refuse_one_value(index["spec"]["frames"], config.size)
    folder = space.detector(config.name)
    recipe = checksums.fingerprint([FORMAT, config.recipe(), index["fingerprint"]])
    done = workspace.published(folder, "config.json")
    if done and not config.overwrite:
        differing = other_settings.changed(done.get("settings", config.recipe()), config.recipe())
        other_settings.refuse_other(folder, done["recipe"], recipe, differing, "--name")
    one = replace(config.request(), num_workers=1)  # One worker trains.
    if config.dry_run:
        print(describe_devices(one))
        return f"would train {config.steps} steps on {index['counts']['train']} clips into {folder}"
    if done and not config.overwrite:
        if storage.sha256_or_none(storage.join(folder, "detector.pt")) != done["sha256"]:
            raise UserError(
                f"{folder}/detector.pt is missing or does not match config.json: "
                "run jobs/train_detector.py --overwrite to make it again"
            )
        return f"{folder} is there already, verified"
    markers = load_markers(space.clips, index, "shard_videos")
    refuse_missing(classes, markers)
    bare = [marker.bare() for marker in markers]
    reading = lock.reading("train_detector", space.clips)
    run_of_job = start_run("train_detector", config, {"clips": index["fingerprint"]})
    devices = choose_devices(one)
    with reading, lock.writing(folder, "train_detector") as owner, run_of_job as run:
        task = ray.remote(num_cpus=1, num_gpus=devices.gpus_per_worker)(_train_under_lock)
        made = ray.get(task.remote(config, bare, classes, devices.kind, owner))
        uri = storage.join(folder, "detector.pt")
        lock.refuse_taken(folder)
        storage.publish_bytes(made["file"], uri)
        metadata = {
            "recipe": recipe,
            "sha256": storage.sha256(uri),
            "classes": classes,
            "clips": index["fingerprint"],
            "figures": made["figures"],
            "settings": config.recipe(),
        }
        storage.publish_json(metadata, storage.join(folder, "config.json"))
        run.metrics(made["figures"])
        run.output(metadata["sha256"][:16])
    split = "val" if "val/accuracy" in made["figures"] else "train"
    return f"accuracy {made['figures'][f'{split}/accuracy']:.2f} on {split} clips, {uri}"


def refuse_one_value(frames: int, size: int) -> None:
    """`UserError` if one clip leaves one value a channel: batch normalisation has nothing to
    average."""
    if ClipClassifier.positions(frames, size) == 1:
        raise UserError(
            f"--batch-size 1 at --size {size} leaves one value of a clip of {frames} frames to "
            "normalise by: pass --batch-size 2 or more"
        )


def refuse_missing(classes: list[str], markers: list[Marker]) -> None:
    """`UserError` if a class has no training clip in the markers' accounts."""
    seen = {
        row["source"]["label"]
        for marker in markers
        if marker.split == "train"
        for row in marker.details["videos"]
        if row["account"]["clips"]
    }
    missing = sorted(set(classes) - seen)
    if missing:
        raise UserError(
            f"class {missing[0]!r} has no training clip: a detector needs some of each; "
            "add videos, or lower --val-fraction"
        )
