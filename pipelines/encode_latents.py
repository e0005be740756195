"""Caching latents: every clip shard to one latent shard.

    clips/*.tar ──▶ pool of actors, each with the encoder ──▶ latents/NAME/*.tar ──▶ index

An actor takes a whole shard, so neither pixels nor latents pass through Ray's object store.
Raw latents are stored; their mean and standard deviation over the training split go into the
index, for training to normalise with.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from pipelines import tracking
from pipelines.config.scale import ray_options, resolve_precision
from pipelines.config.schema import EncodeLatents
from pipelines.io import shards, storage, workspace
from pipelines.io.shards import Marker, ShardWriter
from pipelines.io.video import decode_clip
from pipelines.io.workspace import require
from pipelines.progress import Progress
from vqvdm.generator import from_uint8, load_vqgan

FORMAT = 1
"""Changed whenever the same clips and encoder would give other bytes."""


@dataclass(frozen=True)
class EncodePlan:
    """One task: a clip shard, and the folder its latents go to."""

    clips: str
    marker: Marker
    folder: str
    spec_hash: str

    @property
    def made_from(self) -> str:
        return storage.fingerprint([self.spec_hash, self.marker.sha256])


class EncodeShard:
    """Holds the encoder; turns clip shards into latent shards, or verifies those there are."""

    def __init__(self, vqgan: str, batch_size: int, precision: str) -> None:
        # Ray gives an actor one core here: more threads would only get in each other's way.
        torch.set_num_threads(1)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = resolve_precision(precision, self.device)
        self.batch_size = batch_size
        with tempfile.TemporaryDirectory(prefix="vqvdm-") as folder:
            storage.download_folder(vqgan, Path(folder), ("config.json", "model.safetensors"))
            self.vqgan = load_vqgan(folder, self.device)

    @torch.inference_mode()
    def encode(self, clips: list[bytes]) -> np.ndarray:
        """Encoded clips to raw latents float16 (N, C, T, H, W)."""
        video = torch.stack([torch.from_numpy(decode_clip(clip)) for clip in clips])
        # The batch is always full, so that a clip's latent does not depend on its neighbours.
        missing = self.batch_size - len(video)
        video = torch.cat([video, video[:1].expand(missing, -1, -1, -1, -1)]) if missing else video
        mixed = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed):
            z = self.vqgan.encode(from_uint8(video.to(self.device)))
        return z[: len(clips)].to("cpu", torch.float16).numpy()

    def __call__(self, row: dict) -> dict:
        """Takes {"plan": EncodePlan}, gives {"marker": its JSON, "made": bool}."""
        plan: EncodePlan = row["plan"]
        marker = shards.finished(plan.folder, plan.marker.name, plan.made_from)
        if marker:
            return {"marker": shards.to_json(marker), "made": False}
        samples = list(shards.read_shard(plan.clips, plan.marker, "shard_videos"))
        sums = Sums()
        with ShardWriter(plan.folder, plan.marker.name) as writer:
            for start in range(0, len(samples), self.batch_size):
                batch = samples[start : start + self.batch_size]
                latents = self.encode([sample.members["mp4"] for sample in batch])
                sums.add(latents)
                for sample, latent in zip(batch, latents, strict=True):
                    writer.add(
                        sample.key, {"npy": npy_bytes(latent), "json": sample.members["json"]}
                    )
            fps = Counter(str(json.loads(sample.members["json"])["fps"]) for sample in samples)
            marker = writer.publish(
                [plan.marker.sha256],
                plan.spec_hash,
                plan.made_from,
                {"sums": sums.as_dict(), "fps": dict(fps)},
            )
        return {"marker": shards.to_json(marker), "made": True}


class Sums:
    """Count, sum and sum of squares of each latent channel, in float64."""

    def __init__(self) -> None:
        self.count, self.sum_C, self.squares_C = 0, np.zeros(1), np.zeros(1)

    def add(self, z_NCTHW: np.ndarray) -> None:
        z = z_NCTHW.astype(np.float64)
        self.count += z.size // z.shape[1]
        self.sum_C = self.sum_C + z.sum((0, 2, 3, 4))
        self.squares_C = self.squares_C + (z**2).sum((0, 2, 3, 4))

    def as_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "sum": self.sum_C.tolist(),
            "squares": self.squares_C.tolist(),
        }


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def channel_statistics(markers: list[Marker]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the training split."""
    parts = [m.details["sums"] for m in markers if m.split == "train" and m.keys]
    count = sum(part["count"] for part in parts)
    mean = np.sum([part["sum"] for part in parts], axis=0) / count
    variance = np.sum([part["squares"] for part in parts], axis=0) / count - mean**2
    return mean.tolist(), np.sqrt(np.maximum(variance, 1e-12)).tolist()


def encode_latents(config: EncodeLatents) -> str:
    """Encode ROOT/clips with ROOT/vqgan/NAME into ROOT/latents/NAME."""
    started = time.monotonic()
    space = config.workspace
    clips = require(space.clips, "index.json", "shard_videos")
    vqgan = require(space.vqgan(config.vqgan), "config.json", "train_vqgan")
    if vqgan["inputs"]["clips"] != clips["fingerprint"]:
        print("note: the VQGAN was trained on other clips than these", flush=True)
    folder = space.latents(config.vqgan)
    sources = shards.load_markers(space.clips, clips["shards"], "shard_videos")
    spec = [FORMAT, vqgan["fingerprint"], clips["spec_hash"], config.precision, config.batch_size]
    spec_hash = storage.fingerprint(spec)
    total = sum(len(marker.keys) for marker in sources)
    found = shards.filled_with(folder)
    if found and not config.overwrite:
        workspace.refuse_other(folder, found, spec_hash)
    if config.dry_run:
        return f"would encode {total} clips in {len(sources)} shards into {folder}"
    if found and config.overwrite:
        storage.delete(folder)

    ray.init(**ray_options())
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    actors = config.num_workers or max(1, min(gpus or int(resources.get("CPU", 1)), len(sources)))
    plans = [EncodePlan(space.clips, marker, folder, spec_hash) for marker in sources]
    graph = ray.data.from_items(
        [{"plan": plan} for plan in plans], override_num_blocks=len(plans)
    ).map(
        EncodeShard,  # type: ignore[arg-type]
        fn_constructor_args=(space.vqgan(config.vqgan), config.batch_size, config.precision),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        concurrency=actors,
    )
    markers, made = [], 0
    watch = Progress("shards", len(plans))
    for row in graph.iter_rows():
        marker = shards.from_json(row["marker"])
        markers.append(marker)
        made += row["made"]
        watch.add(1, clips=len(marker.keys))
    markers.sort(key=lambda marker: marker.name)
    mean, std = channel_statistics(markers)
    rates = Counter[str]()
    for marker in markers:
        rates.update(marker.details["fps"])
    index = {
        "vqgan": vqgan["fingerprint"],
        "clips": clips["fingerprint"],
        "spec_hash": spec_hash,
        "classes": clips["classes"],
        "fps": sorted(float(rate) for rate in rates),
        "dtype": "float16",
        "shape": list(vqgan["about"]["latent_shape"]),
        "mean": mean,
        "std": std,
        "shards": [marker.name for marker in markers],
        "fingerprint": storage.fingerprint([marker.sha256 for marker in markers]),
    }
    if not made and workspace.published(folder, "index.json") == index:
        return f"{total} latents are there already, verified"
    inputs = {"clips": clips["fingerprint"], "vqgan": vqgan["fingerprint"]}
    with tracking.run("encode_latents", config, inputs) as run:
        shards.sweep(folder, [marker.name for marker in markers])
        storage.publish_json(index, storage.join(folder, "index.json"))
        run.metrics({"throughput/clips_per_s": total / (time.monotonic() - started)})
        run.metrics({f"latent/std_{c}": value for c, value in enumerate(std)})
        run.output(index["fingerprint"])
    shape = "×".join(map(str, index["shape"]))
    return f"{total} latents of {shape}"
