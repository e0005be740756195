"""Caching latents: every clip shard is encoded to one latent shard.

    clips/*.tar ──▶ pool of actors, each with the encoder ──▶ latents/NAME/*.tar ──▶ index

An actor takes a whole shard, so neither pixels nor latents pass through Ray's object store.
Raw latents are stored; their mean and standard deviation over the training split go into the
index, for training to normalise with.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import ray

from pipelines.cluster import tasks
from pipelines.cluster.devices import choose_devices, describe_devices
from pipelines.cluster.join import set_up_ray_data
from pipelines.io import checksums, lock, storage, workspace
from pipelines.io.markers import Marker, content_fingerprint, files_of, filled_with, load_markers
from pipelines.io.progress import Progress
from pipelines.io.workspace import require
from pipelines.latents import audit
from pipelines.latents.audit import AuditShard
from pipelines.latents.encoder import (
    EncodePlan,
    EncodeShard,
    Origin,
    channel_statistics,
    latent_shape,
)
from pipelines.latents.settings import EncodeLatents
from pipelines.tracking.run import Run
from pipelines.tracking.start import run_on_demand
from vqvdm.errors import UserError

FORMAT = 2
"""Changed whenever the same clips and encoder would give other bytes."""


def encode_latents(config: EncodeLatents) -> str:
    """Encode ROOT/clips with ROOT/vqgan/NAME into ROOT/latents/NAME."""
    config.check()
    started = time.monotonic()
    space = config.workspace
    clips = require(space.clips, "index.json", "shard_videos")
    vqgan = require(space.vqgan(config.vqgan), "config.json", "train_vqgan")
    if vqgan["inputs"]["clips"] != clips["fingerprint"]:
        print("note: the VQGAN was trained on other clips than these", flush=True)
    shape = latent_shape(vqgan, clips["spec"])
    folder = space.latents(config.vqgan)
    sources = load_markers(space.clips, clips, "shard_videos")
    origin = Origin(audit.weights_of(space.vqgan(config.vqgan), vqgan), clips["spec_hash"])
    spec_hash = checksums.fingerprint([FORMAT, asdict(origin), config.precision, config.batch_size])
    plans = [EncodePlan(space.clips, marker, folder, spec_hash, origin) for marker in sources]
    reading = lock.reading("encode_latents", space.clips, space.vqgan(config.vqgan))
    if config.audit:
        with reading:
            return audit_latents(config, plans, shape)
    total = sum(len(marker.keys) for marker in sources)
    found = filled_with(folder)
    if found and not config.overwrite:
        workspace.refuse_other(folder, found, spec_hash)
    if config.dry_run:
        print(describe_devices(replace(config.request(), at_most=len(sources))))
        return f"would encode {total} clips in {len(sources)} shards into {folder}"

    inputs = {"clips": clips["fingerprint"], "vqgan": vqgan["fingerprint"]}
    run = run_on_demand("encode_latents", config, inputs)
    with reading, lock.writing(folder, "encode_latents"), run as begin:
        if found and config.overwrite:
            storage.keep_only(folder, [lock.NAME])
        markers, made = encode_shards(plans, config, begin)
        index = latents_index(markers, origin, spec_hash, clips, vqgan, shape)
        storage.keep_only(folder, files_of(index["shards"]))
        if not made and workspace.published(folder, "index.json") == index:
            return f"{total} latents are there already, verified"
        storage.publish_json(index, storage.join(folder, "index.json"))
        begin().metrics({"throughput/clips_per_s": total / (time.monotonic() - started)})
        begin().metrics({f"latent/std_{c}": value for c, value in enumerate(index["std"])})
        begin().output(index["fingerprint"])
    return f"{total} latents of {'×'.join(map(str, shape))}"


def encode_shards(
    plans: list[EncodePlan], config: EncodeLatents, begin: Callable[[], Run]
) -> tuple[list[Marker], int]:
    """Have every shard encoded or verified; returns the markers, and how many were made."""
    markers: list[Marker] = []
    made = 0

    def log(done: int, counts: Mapping[str, float]) -> None:
        if made:
            begin().progress(done, counts)

    progress = Progress("shards", len(plans), log=log)
    for row in on_actors(EncodeShard, [{"plan": plan} for plan in plans], config):
        marker = Marker.from_json(row["marker"])
        markers.append(marker)
        made += row["made"]
        progress.add(1, clips=len(marker.keys))
    return sorted(markers, key=lambda marker: marker.name), made


def on_actors(actor: Any, rows: list[dict], config: EncodeLatents) -> Iterator[dict]:
    """Process rows by a pool of actors, each with the encoder; yields results in any order."""
    devices = choose_devices(replace(config.request(), at_most=len(rows)))
    set_up_ray_data(ray.data.DataContext.get_current())
    vqgan = config.workspace.vqgan(config.vqgan)

    def start(rows: list[dict], where: dict[str, Any]) -> Iterable[dict]:
        graph = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            tasks.actor(actor),
            fn_constructor_args=(vqgan, config.batch_size, config.precision, devices.kind),
            num_cpus=1,
            num_gpus=devices.gpus_per_worker,
            concurrency=devices.workers,
            **where,
        )
        return graph.iter_rows()

    yield from tasks.done(rows, start, needs="GPU" if devices.gpus_per_worker else "CPU")


def latents_index(
    markers: list[Marker],
    origin: Origin,
    spec_hash: str,
    clips: dict,
    vqgan: dict,
    shape: list[int],
) -> dict[str, Any]:
    """`latents/NAME/index.json`: the content of the shards, and what they were made from."""
    mean, std = channel_statistics(markers)
    rates = Counter[str]()
    for marker in markers:
        rates.update(marker.details["fps"])
    return {
        "vqgan": vqgan["fingerprint"],
        "clips": clips["fingerprint"],
        "origin": asdict(origin),
        "spec_hash": spec_hash,
        "classes": clips["classes"],
        "fps": sorted(float(rate) for rate in rates),
        "dtype": "float16",
        "shape": shape,
        "mean": mean,
        "std": std,
        "shards": [marker.name for marker in markers],
        "fingerprint": content_fingerprint(markers),
    }


def audit_latents(config: EncodeLatents, plans: list[EncodePlan], shape: list[int]) -> str:
    """Check origin, shape and keys of all latents, and encode a sample of the clips again."""
    folder = config.workspace.latents(config.vqgan)
    index = require(folder, "index.json", "encode_latents")
    markers = load_markers(folder, index, "encode_latents")
    audit.check_origin(folder, index, markers, plans[0].origin)
    audit.check_shape(folder, index, shape)
    audit.check_pairs(folder, markers, [plan.marker for plan in plans])
    if [marker.made_from for marker in markers] != [plan.made_from for plan in plans]:
        raise UserError(f"{folder} is not made from these clips: run jobs/encode_latents.py first")
    if config.dry_run:
        return f"would encode {config.audit_clips} clips again"
    rows = [
        {"plan": plan, "marker": marker, "keys": keys, "std": index["std"]}
        for plan, marker, keys in zip(
            plans, markers, audit.sample_keys(markers, config.audit_clips), strict=True
        )
        if keys
    ]
    found = [d for row in on_actors(AuditShard, rows, config) for d in row["differences"]]
    return audit.judge(folder, found, config.audit_tolerance)
