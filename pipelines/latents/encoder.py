"""Encoding one shard of clips to latents, with a record of what they were made from.

Raw latents are stored, as float16 arrays (C, T, H, W), and where captions are wanted the embedding
of each clip's beside its latent.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any, get_args

import numpy as np
import torch

from pipelines.cluster.devices import Kind, worker_device
from pipelines.cluster.gpu_memory import enough_memory
from pipelines.io import checksums, lock, shards, storage
from pipelines.io.arrays import TEXT, npy_bytes
from pipelines.io.bundles import MODEL
from pipelines.io.markers import Marker, finished
from pipelines.io.scratch import scratch
from pipelines.io.shards import Sample, ShardWriter
from pipelines.latents.augmentation import PLAIN, Views, keys_of_latents, views
from pipelines.latents.captions import Captions, Embeddings, load_encoder
from pipelines.latents.statistics import Sums
from pipelines.settings import Augment
from pipelines.video import Frames
from pipelines.video.encoder import decode_clips
from vqvdm.generator import from_uint8, load_vqgan
from vqvdm.inference import Precision, prepare_device, resolve_precision
from vqvdm.text_encoder import TextEncoder
from vqvdm.tokenizer.base import Tokenizer
from vqvdm.tokenizer.kinds import read_config
from vqvdm.tokenizer.pixels import Pixels

FORMAT = 2
"""Changed whenever the same clips and encoder would give other bytes."""
Map = Callable[[Callable[[list[bytes]], Frames], Iterable[list[bytes]]], Iterable[Frames]]
"""Has batches of clips decoded, in their order: `map`, or the like of it with tasks."""


@dataclass(frozen=True)
class Origin:
    """What latents were made from: recorded in every marker and in the index."""

    vqgan_sha256: str
    """Checksum of the encoder's weights."""
    clip_spec: str
    """Fingerprint of how the clips were cut."""


def spec_hash(
    origin: Origin,
    precision: str,
    batch_size: int,
    augment: Augment = "none",
    captions: Captions | None = None,
) -> str:
    """Fingerprint of all that latents depend on beside their clips."""
    further: list[str] = [] if augment == "none" else [augment]
    further += [captions.identity] if captions else []
    return checksums.fingerprint([FORMAT, asdict(origin), precision, batch_size, *further])


def begun_with(
    found: str,
    origin: Origin,
    batch_size: int,
    augment: Augment = "none",
    captions: Captions | None = None,
) -> Precision | None:
    """The precision of the latents that have the fingerprint `found`; None if they depend on other
    settings or inputs too.

    Earlier versions let each worker find out what `auto` is, and so does who reads their latents.
    """
    known: tuple[Precision, ...] = get_args(Precision)
    hashes = {spec_hash(origin, each, batch_size, augment, captions): each for each in known}
    return hashes.get(found)


@dataclass(frozen=True)
class EncodePlan:
    """One task: a clip shard, and the folder its latents go to."""

    clips: str
    marker: Marker
    folder: str
    spec_hash: str
    origin: Origin
    augment: Augment = "none"
    captions: Captions | None = None

    @property
    def views(self) -> Views:
        """What is encoded of its clips."""
        return views(self.augment, self.marker.split)

    @property
    def keys(self) -> list[str]:
        """The keys of the latents, in order."""
        return keys_of_latents(self.marker, self.augment)

    @property
    def made_from(self) -> str:
        return checksums.fingerprint([self.spec_hash, self.marker.sha256])

    def is_of(self, marker: Marker) -> bool:
        """Whether latents with this marker are made from exactly these clips."""
        return (
            marker.made_from == self.made_from
            and marker.keys == self.keys
            and origin_of(marker) == self.origin
        )

    def finished(self, verify: bool) -> Marker | None:
        """The marker of the latents if they are there as planned, and sound."""
        marker = finished(self.folder, self.marker.name, self.made_from, verify)
        return marker if marker and self.is_of(marker) else None


def latent_shape(vqgan: Mapping[str, Any], spec: Mapping[str, Any]) -> list[int]:
    """C, T, H and W of the latents of clips, which may differ from the VQGAN's training clips;
    `UserError` if the clips do not divide."""
    shape = read_config(vqgan).latent_shape(spec["frames"], spec["size"], spec["size"])
    return list(shape)


def origin_of(marker: Marker) -> Origin | None:
    return Origin(**marker.details["origin"]) if "origin" in marker.details else None


class Encoder:
    """A VQGAN's encoder on this worker's device.

    Several threads may encode at a time; the device works on one batch.
    """

    def __init__(
        self,
        vqgan: str,
        batch_size: int,
        precision: str,
        device: Kind = "cpu",
        decoders: Map = map,
    ) -> None:
        self._kind, self._precision = device, precision
        self.batch_size, self._place = batch_size, vqgan
        self._decoders = decoders
        self._lock = threading.Lock()
        self._texts: TextEncoder | None = None

    @cached_property
    def device(self) -> torch.device:
        device = worker_device(self._kind)
        prepare_device(device)
        return device

    @cached_property
    def dtype(self) -> torch.dtype:
        return resolve_precision(self._precision, self.device)

    @cached_property
    def vqgan(self) -> Tokenizer | Pixels:
        """Loaded at first use: an error at the start of an actor loses its class, and could not be
        reported in one line."""
        with scratch() as folder:
            storage.download_folder(self._place, folder, MODEL)
            return load_vqgan(folder, self.device)

    def embeddings(self, plan: EncodePlan) -> Embeddings | None:
        """What encodes the captions of a shard; None if none are wanted. The text encoder, the same
        for all shards, is loaded with the first."""
        if plan.captions is None:
            return None
        with self._lock:
            if self._texts is None:
                self._texts = load_encoder(plan.folder, plan.captions, self.device)
        return Embeddings(plan.captions, self._texts)

    def encode(self, clips: Iterable[bytes], of: Views = PLAIN) -> Iterator[dict[str, np.ndarray]]:
        """Encoded clips to raw latents float16 (N, C, T, H, W) of each view, a batch at a time.

        Clips are taken as their decoders come to them, not all at once.
        """
        clips = iter(clips)
        batches = iter(lambda: list(islice(clips, self.batch_size)), [])
        # A worker has one core here, and each thread its own setting: more would only compete.
        torch.set_num_threads(1)
        for frames in self._decoders(decode_clips, batches):
            with self._lock, enough_memory(f"pass --batch-size {max(1, self.batch_size // 2)}"):
                latents = {end: self.forward(view(frames)) for end, view in of.items()}
            yield latents

    @torch.inference_mode()
    def forward(self, frames_NTHWC: Frames) -> np.ndarray:
        count, on_gpu = len(frames_NTHWC), self.device.type == "cuda"
        # The batch is always full, so that a clip's latent does not depend on its neighbours.
        shape = (self.batch_size, *frames_NTHWC.shape[1:])
        video = torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu)
        video.numpy()[:count], video.numpy()[count:] = frames_NTHWC, frames_NTHWC[:1]
        mixed = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed):
            z = self.vqgan.encode(from_uint8(video.to(self.device)))
        return z[:count].to("cpu", torch.float16).numpy()


class EncodeShard(Encoder):
    """Turns clip shards into latent shards, or verifies existing ones."""

    def __call__(self, row: dict) -> dict:
        """Takes {"plan": EncodePlan, "verify": bool, "owner": of the lock of the folder, or None},
        gives {"marker": its JSON, "made": bool}."""
        plan: EncodePlan = row["plan"]
        if owner := row.get("owner"):
            lock.refuse_unseen_once(plan.folder, owner)
        marker = plan.finished(row["verify"])
        if marker:
            return {"marker": marker.to_json(), "made": False}
        rates, sums = Counter[str](), Sums()
        waiting, texts = deque[Sample](), self.embeddings(plan)

        def clips() -> Iterator[bytes]:
            for sample in shards.read_shard(plan.clips, plan.marker, "shard_videos"):
                waiting.append(Sample(sample.key, {"json": sample.members["json"]}))
                yield shards.clip_of(sample.members)

        with ShardWriter(plan.folder, plan.marker.name) as writer:
            for batch in self.encode(clips(), plan.views):
                samples = [waiting.popleft() for _ in batch[""]]
                if texts:
                    for sample in samples:
                        sample.members[TEXT] = texts.member(sample.members["json"])
                for end, latents in batch.items():
                    sums.add(latents)
                    for sample, latent in zip(samples, latents, strict=True):
                        rates[str(json.loads(sample.members["json"])["fps"])] += 1
                        writer.add(sample.key + end, {"npy": npy_bytes(latent), **sample.members})
            details = {
                "sums": sums.as_dict(),
                "fps": dict(rates),
                "origin": asdict(plan.origin),
                **({"text": texts.details} if texts else {}),
            }
            marker = writer.publish([plan.marker.sha256], plan.spec_hash, plan.made_from, details)
        return {"marker": marker.to_json(), "made": True}
