"""The worker: samples, decodes or reconstructs a batch of videos, and extracts their features."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.cluster.cores import local_cpus
from pipelines.cluster.devices import Devices, worker_device
from pipelines.cluster.gpu_memory import enough_memory
from pipelines.evaluation.batches import Batch, ClipRef
from pipelines.evaluation.features import (
    FORMAT,
    FeatureExtractor,
    Features,
    FeatureSpec,
    cached,
    reconstructor,
)
from pipelines.evaluation.frame_classifier import train_frame_classifier
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.real_clips import Drawn
from pipelines.evaluation.thumbnails import thumbnails
from pipelines.io import checksums, lock, shards, storage
from pipelines.io.arrays import label_index
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardReader
from pipelines.sampling.worker import SamplingWorker
from pipelines.sharding.clips_of_videos import keys_by_id
from pipelines.video import Frames
from pipelines.video.encoder import decode_clip
from vqvdm.errors import UserError
from vqvdm.inference import Precision, prepare_device

AT_ONCE = 16
"""Clips that a worker decodes at once."""
DETECTOR_CLIPS = 1500
"""Training clips for the frame classifier, at most, but one of each class."""


class FeatureWorker:
    """Holds the feature extractor and, if they are needed, generator and tokenizer."""

    def __init__(
        self,
        inputs: Inputs,
        spec: FeatureSpec,
        batches: Sequence[Batch],
        devices: Devices,
        precision: Precision = "auto",
    ) -> None:
        """`precision` is that of samples."""
        torch.set_num_threads(devices.threads())
        self.batches, self.precision = batches, precision
        self.inputs, self.spec, self.devices = inputs, spec, devices
        self.space = inputs.config.workspace
        self._generator: SamplingWorker | None = None
        self._reconstruct: Any = None

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """Loaded at first use: an error at the start of an actor could not be told in one line."""
        device = worker_device(self.devices.kind)
        prepare_device(device)
        return FeatureExtractor(self.spec, device)

    def __call__(self, row: dict) -> dict:
        """Takes {"batch": its number}, adds {"features": safetensors as bytes}."""
        batch = self.batches[row["batch"]]
        if self.inputs.owner:
            lock.refuse_unseen_once(self.inputs.folder, self.inputs.owner)
        make = self._samples if batch.kind == "samples" else self._clips
        with enough_memory(f"pass --batch-size {max(1, self.inputs.config.batch_size // 2)}"):
            data = cached(self.space.features, batch.key, lambda: make(batch))
        return row | {"features": data}

    def _samples(self, batch: Batch) -> Features:
        config = self.inputs.config
        bundle = self.space.ldm(config.ldm)
        if self._generator is None:
            batches = sum(bool(each.requests) for each in self.batches)
            prompted = any(r.prompt is not None for each in self.batches for r in each.requests)
            self._generator = SamplingWorker(
                bundle, config, self.precision, self.devices, batches, prompted
            )
        videos = self._generator.videos(batch.requests)
        classes = self.inputs.bundle["classes"]
        index_N = [label_index(request.label, classes) for request in batch.requests]
        fps_N = [request.fps for request in batch.requests]
        found = self.extractor.extract(videos, np.array(index_N), np.array(fps_N))
        if batch.show:
            found["shown"] = videos[list(batch.show)]
        return found

    def _clips(self, batch: Batch) -> Features:
        assert batch.marker
        if batch.kind == "rates":
            return {"fps": read_rates(self.space.clips, batch.marker, batch.refs)}
        clips = read_clips(self.space.clips, batch.marker, batch.refs)
        parts, classes = [], self.inputs.bundle["classes"]
        for start in range(0, len(clips), AT_ONCE):
            some = clips[start : start + AT_ONCE]
            videos = np.stack([decode_clip(clip.video) for clip in some])
            if batch.kind in ("train", "held-out"):
                parts.append({"thumbnails": thumbnails(videos)})
            elif batch.kind == "reconstructed":
                show = [i - start for i in batch.show if start <= i < start + AT_ONCE]
                parts.append(self._compare(videos, show))
            else:
                index_N = np.array([label_index(clip.label, classes) for clip in some])
                fps_N = np.array([clip.fps for clip in some])
                parts.append(self.extractor.extract(videos, index_N, fps_N))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _compare(self, videos: Frames, show: list[int]) -> Features:
        bundle = self.space.ldm(self.inputs.config.ldm)
        self._reconstruct = self._reconstruct or reconstructor(bundle, self.extractor.device)
        found = self.extractor.compare(videos, self._reconstruct)
        made = found.pop("reconstructed")
        return found | {"shown": videos[show], "shown_made": made[show]}


@dataclass(frozen=True)
class StoredClip:
    """A clip as it is stored in a shard."""

    video: bytes
    label: str | None
    fps: float
    source: str


def read_clips(folder: str, marker: Marker, refs: Sequence[ClipRef]) -> list[StoredClip]:
    """Clips of one verified shard, in the order asked for."""
    with _described(folder, marker, refs) as (reader, described):
        return [
            StoredClip(reader.clip(key), *(each[n] for n in ("label", "fps", "source")))
            for key, each in described
        ]


def read_rates(folder: str, marker: Marker, refs: Sequence[ClipRef]) -> NDArray[np.float64]:
    """Frame rates of clips of one verified shard, in the order asked for."""
    with _described(folder, marker, refs) as (_, described):
        return np.array([each["fps"] for _, each in described], np.float64)


@contextmanager
def _described(
    folder: str, marker: Marker, refs: Sequence[ClipRef]
) -> Iterator[tuple[ShardReader, list[tuple[str, dict[str, Any]]]]]:
    """A verified shard, and the key and the JSON of each clip asked for."""
    uri = storage.join(folder, f"{marker.name}.tar")
    with shards.missing_is_named(uri, "shard_videos"), storage.local_copy(uri) as path:
        shards.verify_file(path, marker, uri, "shard_videos")
        reader = ShardReader(path)
        metadata = {key: json.loads(reader.member(key, "json")) for key in marker.keys}
        keys_of = {
            id: sorted(keys, key=lambda key: (metadata[key]["fps"], metadata[key]["start_s"], key))
            for id, keys in keys_by_id(marker, lambda key: metadata[key]["source"]).items()
        }
        try:
            keys = [keys_of[ref.source][ref.ordinal] for ref in refs]
        except (KeyError, IndexError):
            raise UserError(
                f"{uri} holds other clips than videos.parquet lists: "
                + shards.repair("shard_videos")
            ) from None
        yield reader, [(key, metadata[key]) for key in keys]


def frame_classifier_state(inputs: Inputs, markers: Sequence[Marker], drawn: Drawn) -> bytes:
    """Weights of a classifier of single frames, trained on training clips; cached.

    It trains on as many of each class, where there are, and on no video whose clips it judges.
    `UserError` where that leaves none of a class.
    """
    config, classes = inputs.config, inputs.bundle["classes"]
    refs = drawn.unjudged(markers, DETECTOR_CLIPS, config.seed + 2)
    missing = set(classes) - {drawn.label_of[ref.source] for ref in refs}
    if never := missing - drawn.labels_to_train_on(markers):
        raise UserError(
            f"no training clip is of {min(never)!r}, so that no classifier can learn it: all its "
            "clips are in the validation split, which --val-fraction and --val-list of "
            "shard_videos make"
        )
    if missing:
        raise UserError(
            f"no training video of {min(missing)!r} is left for a classifier but those that it "
            "judges: lower --num-real"
        )
    by_shard: dict[str, list[ClipRef]] = {}
    for ref in refs:
        by_shard.setdefault(ref.shard, []).append(ref)

    def train() -> Features:
        # As many frames in all, however many the classes: more clips give fewer frames each.
        step = -(-len(refs) // DETECTOR_CLIPS)

        def frames_of(clip: StoredClip) -> Frames:
            return np.ascontiguousarray(decode_clip(clip.video)[::step])

        videos: list[Frames] = []
        labels: list[int] = []
        with ThreadPoolExecutor(local_cpus()) as pool:
            for marker in markers:
                if marker.name not in by_shard:
                    continue
                clips = read_clips(config.workspace.clips, marker, by_shard[marker.name])
                videos += pool.map(frames_of, clips)
                labels += [label_index(clip.label, classes) for clip in clips]
        torch.set_num_threads(local_cpus())
        net = train_frame_classifier(
            np.stack(videos), np.array(labels), len(classes), config.detector_steps
        )
        return {name: tensor.numpy() for name, tensor in net.state_dict().items()}

    shards = [[name, [[r.source, r.ordinal] for r in some]] for name, some in by_shard.items()]
    made_from = [FORMAT, "frames", inputs.index["fingerprint"], config.detector_steps, shards]
    return cached(config.workspace.features, checksums.fingerprint(made_from), train)
