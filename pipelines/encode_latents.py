"""Caching latents: every clip shard is encoded to one latent shard.

    clips/*.tar ──▶ pool of actors, each with the encoder ──▶ latents/NAME/*.tar ──▶ index
                        │   ▲  batches of frames, in order, a bounded number
                        ▼   │
                     decoding tasks on all cores

An actor takes a whole shard, and writes it: what Ray Data passes on is a row for each shard. Clips
pass directly between actors and decoding tasks, on whichever node has a core. Raw latents are
stored; their mean and standard deviation over the training split go into the index, for training
to normalise with. With --text-encoder, an actor also encodes the captions of its clips.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray

from pipelines.cluster import tasks
from pipelines.cluster.ahead import Ahead, ahead_of, worker_cpus
from pipelines.cluster.devices import Devices
from pipelines.cluster.placement import (
    choose_devices,
    describe_devices,
    memory_hint,
    settle_precision,
)
from pipelines.io import lock, rates, storage, workspace
from pipelines.io.markers import (
    SHARD_FILES,
    Marker,
    clear,
    content_fingerprint,
    files_of,
    load_markers,
    to_be_cleared,
)
from pipelines.io.progress import Progress
from pipelines.io.workspace import require
from pipelines.latents import audit, published
from pipelines.latents.audit import AuditShard
from pipelines.latents.captions import (
    FOLDER,
    check_encoder,
    check_source,
    publish_encoder,
)
from pipelines.latents.encoder import (
    EncodePlan,
    EncodeShard,
)
from pipelines.latents.inputs import Inputs, find_inputs, finished_latents
from pipelines.latents.settings import EncodeLatents
from pipelines.latents.statistics import channel_statistics
from pipelines.tracking.run import Run
from pipelines.tracking.start import run_on_demand
from vqvdm.errors import UserError
from vqvdm.inference import Precision

FILES = re.compile(rf"{SHARD_FILES.pattern}|{FOLDER}/[^/]+")
"""Names of the files of a folder of latents."""
ENCODER_BYTES = 2**30
"""Memory of an actor, without what it shares with its tasks: PyTorch, the net, a batch."""


def encode_latents(config: EncodeLatents) -> str:
    """Encode ROOT/clips with ROOT/vqgan/NAME into ROOT/latents/NAME."""
    config.check()
    started = time.monotonic()
    inputs = find_inputs(config)
    if config.audit:
        return audit_latents(inputs)
    if inputs.found and not config.overwrite:
        inputs.refuse_other()
    folder, total = inputs.folder, inputs.total
    if config.dry_run:
        print(describe_devices(replace(config.request(), at_most=len(inputs.clips))))
        return f"would encode {total} latents in {len(inputs.clips)} shards into {folder}"
    run = run_on_demand("encode_latents", config, inputs.fingerprints)
    with inputs.reading(), lock.writing(folder, "encode_latents") as owner, run as begin:
        precision, markers, made = encode(inputs, begin, owner)
        index = latents_index(inputs, markers, inputs.made_with(precision))
        lock.refuse_taken(folder)
        storage.keep_only(folder, files_of(index["shards"]) | inputs.encoder_files, FILES)
        if not made and workspace.published(folder, "index.json") == index:
            how = "checksum" if config.verify else "size and time"
            return f"{total} latents are there already, verified by {how}"
        storage.publish_json(index, storage.join(folder, "index.json"))
        encoded = sum(len(marker.keys) for marker in made)
        begin().metrics({"throughput/clips_per_s": encoded / (time.monotonic() - started)})
        begin().metrics({f"latent/std_{c}": value for c, value in enumerate(index["std"])})
        begin().output(index["fingerprint"])
    told = f", captions of {index['text']['clips']} clips" if inputs.captions else ""
    return f"{total} latents of {'×'.join(map(str, inputs.shape))}{told}"


def encode(
    inputs: Inputs, begin: Callable[[], Run], owner: str
) -> tuple[Precision, list[Marker], list[Marker]]:
    """Encode what is not there, or with --overwrite everything, under the lock of `owner`; returns
    the precision of all latents, their markers in order, and the markers of those that were made.
    """
    config, folder, captions = inputs.config, inputs.folder, inputs.captions
    precision, there = inputs.precision, list[Marker]()
    planned = inputs.made_with(precision) if precision else None
    from_scratch = config.overwrite and to_be_cleared(folder, planned)
    if captions and config.text_encoder and from_scratch:
        check_source(config.text_encoder, folder, captions)
    if precision and not (from_scratch or config.verify):
        there = finished_latents(inputs.plans(precision))
    pool = None
    if missing := len(inputs.clips) - len(there):
        pool = start_pool(inputs, precision, missing)
        precision = pool.config.precision
    assert precision is not None  # Without a pool, those that are there have one.
    lock.refuse_taken(folder)
    if from_scratch:
        # What cannot be encoded, or not be told of, was found before. The encoder that is there
        # may be the one that is asked for.
        begin()
        clear(folder, [lock.NAME, *inputs.encoder_files], FILES)
    if captions and config.text_encoder:
        publish_encoder(config.text_encoder, folder, captions)
    if pool is None:
        return precision, there, []
    return precision, *encode_missing(inputs.plans(precision), there, pool, begin, owner)


@dataclass(frozen=True)
class Pool:
    """The actors of a job, and how they encode."""

    config: EncodeLatents
    """With the precision that all of them use."""
    devices: Devices
    clip_spec: dict[str, Any]
    text_bytes: int = 0
    """Memory of the weights of the text encoder, which every actor loads, if there is one."""

    @property
    def calls(self) -> int:
        """Shards that an actor has at a time: a GPU works on one while another is read or
        written."""
        return 2 if self.devices.kind == "cuda" else 1

    @property
    def decoders(self) -> Ahead:
        """The tasks that decode for an actor."""
        frames, size = self.clip_spec["frames"], self.clip_spec["size"]
        # A lossless clip is never much larger than its frames.
        batch_bytes = 2 * self.config.batch_size * frames * size * size * 3
        return ahead_of(self.devices, self.calls, batch_bytes)

    def actors(self) -> dict[str, Any]:
        """Number and resources of the actors, as Ray Data takes them."""
        devices = self.devices
        size = ray.data.ActorPoolStrategy(
            min_size=1,  # A pool grows again after it lost actors, and shrinks at the end.
            max_size=devices.workers,
            initial_size=devices.workers,
            max_concurrent_calls_per_actor=self.calls,
            enable_true_multi_threading=self.calls > 1,
        )
        return {
            "compute": size,
            "num_cpus": worker_cpus(devices),
            "num_gpus": devices.gpus_per_worker,
            "memory": memory_hint(devices, ENCODER_BYTES + self.text_bytes),
        }


def start_pool(inputs: Inputs, precision: Precision | None, shards: int) -> Pool:
    """The actors for so many shards. If no precision is given, the cluster decides what it is."""
    devices = choose_devices(replace(inputs.config.request(), at_most=shards))
    config = replace(inputs.config, precision=precision or settle_precision(devices))
    return Pool(config, devices, inputs.spec, inputs.encoder_bytes)


def encode_missing(
    plans: list[EncodePlan],
    there: list[Marker],
    pool: Pool,
    begin: Callable[[], Run],
    owner: str | None = None,
) -> tuple[list[Marker], list[Marker]]:
    """Have the shards encoded, or verified, that are not among those `there`, under the lock of
    `owner`; returns the markers of all, in order, and of those that were made."""
    markers, made = {marker.name: marker for marker in there}, list[Marker]()

    def log(done: int, counts: Mapping[str, float]) -> None:
        if made:
            begin().progress(done, counts)

    rows = [
        {"plan": plan, "verify": pool.config.verify, "owner": owner}
        for plan in plans
        if plan.marker.name not in markers
    ]
    progress = Progress("shards", len(rows), log=log)
    for row in on_actors(EncodeShard, rows, pool):
        marker = Marker.from_json(row["marker"])
        markers[marker.name] = marker
        if row["made"]:
            made.append(marker)
        progress.add(1, latents=len(marker.keys))
    return [markers[name] for name in sorted(markers)], made


def on_actors(actor: Any, rows: list[dict], pool: Pool) -> Iterator[dict]:
    """Process rows by a pool of actors, each with the encoder; yields results in any order."""
    config, devices = pool.config, pool.devices
    encoder = (config.workspace.vqgan(config.vqgan), config.batch_size, config.precision)
    return tasks.run(
        rows,
        actor,
        fn_constructor_args=(*encoder, devices.kind, pool.decoders.map),
        **pool.actors(),
    )


def latents_index(inputs: Inputs, markers: list[Marker], made_by: str) -> dict[str, Any]:
    """`latents/NAME/index.json`: the content of the shards, and what they were made from."""
    mean, std = channel_statistics(markers)
    augment, captions = inputs.config.augment, inputs.captions
    clips_of = Counter[float]()
    for marker in markers:
        clips_of.update({float(fps): n for fps, n in marker.details["fps"].items()})
    return {
        "vqgan": inputs.vqgan["fingerprint"],
        "clips": inputs.index["fingerprint"],
        "origin": asdict(inputs.origin),
        "spec_hash": made_by,
        "classes": inputs.index["classes"],
        **rates.summary(clips_of),
        "dtype": "float16",
        "shape": inputs.shape,
        "mean": mean,
        "std": std,
        "shards": [marker.name for marker in markers],
        "fingerprint": content_fingerprint(markers),
        **({} if augment == "none" else {"augment": augment}),
        **({"text": captions.in_index(markers)} if captions else {}),
    }


def audit_latents(inputs: Inputs) -> str:
    """Check origin, shape and keys of all latents, and encode a sample of the clips again."""
    config, folder = inputs.config, inputs.folder
    precision = inputs.precision or config.precision
    plans = inputs.plans(precision)
    with inputs.reading():
        index = require(folder, "index.json", "encode_latents")
        markers = load_markers(folder, index, "encode_latents")
        published.check_origin(folder, index, markers, inputs.origin)
        published.check_shape(folder, index, inputs.shape)
        if inputs.captions:
            check_encoder(folder, inputs.captions)
        published.check_pairs(folder, markers, inputs.clips, config.augment)
        if [marker.made_from for marker in markers] != [plan.made_from for plan in plans]:
            raise UserError(
                f"{folder} is not made from these clips: run jobs/encode_latents.py first"
            )
        if config.dry_run:
            return f"would encode {config.audit_clips} clips again"
        rows = [
            {"plan": plan, "marker": marker, "keys": keys, "std": index["std"]}
            for plan, marker, keys in zip(
                plans, markers, audit.sample_keys(markers, config.audit_clips), strict=True
            )
            if keys
        ]
        pool = start_pool(inputs, precision, len(rows))
        found = [d for row in on_actors(AuditShard, rows, pool) for d in audit.differences_of(row)]
        return audit.judge(folder, found, config.audit_tolerance)
