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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import ray

from pipelines.cluster import tasks
from pipelines.cluster.ahead import Ahead, ahead_of, worker_cpus
from pipelines.cluster.devices import Devices
from pipelines.cluster.join import set_up_ray_data
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
    content_fingerprint,
    files_of,
    filled_with,
    load_markers,
    untouched,
)
from pipelines.io.progress import Progress
from pipelines.io.workspace import require
from pipelines.latents import audit
from pipelines.latents.audit import AuditShard
from pipelines.latents.augmentation import keys_of_latents
from pipelines.latents.captions import (
    FOLDER,
    Captions,
    captions_by,
    captions_there,
    check_encoder,
    check_source,
    encoder_bytes,
    flags_there,
    publish_encoder,
)
from pipelines.latents.encoder import (
    EncodePlan,
    EncodeShard,
    Origin,
    begun_with,
    latent_shape,
    spec_hash,
)
from pipelines.latents.settings import EncodeLatents
from pipelines.latents.statistics import channel_statistics
from pipelines.settings import Augment
from pipelines.sharding import manifest
from pipelines.sharding.columns import from_text
from pipelines.tracking.run import Run
from pipelines.tracking.start import run_on_demand
from vqvdm.errors import UserError
from vqvdm.inference import Precision
from vqvdm.text_encoder import refuse_missing_library

FILES = re.compile(rf"{SHARD_FILES.pattern}|{FOLDER}/[^/]+")
"""Names of the files of a folder of latents."""
ENCODER_BYTES = 2**30
"""Memory of an actor, without what it shares with its tasks: PyTorch, the net, a batch."""


def encode_latents(config: EncodeLatents) -> str:
    """Encode ROOT/clips with ROOT/vqgan/NAME into ROOT/latents/NAME."""
    config.check()
    started = time.monotonic()
    space = config.workspace
    clips = require(space.clips, "index.json", "shard_videos")
    workspace.refuse_no_training_clips(space.clips, clips["counts"].get("train", 0))
    vqgan = require(space.vqgan(config.vqgan), "config.json", "train_vqgan")
    if vqgan["inputs"]["clips"] != clips["fingerprint"]:
        print("note: the VQGAN was trained on other clips than these", flush=True)
    shape = latent_shape(vqgan, clips["spec"])
    folder = space.latents(config.vqgan)
    sources = load_markers(space.clips, clips, "shard_videos")
    origin = Origin(audit.weights_of(space.vqgan(config.vqgan), vqgan), clips["spec_hash"])
    found = filled_with(folder)
    captions = captions_of(config, folder, sources)
    if config.audit:
        config = replace(config, augment=augment_there(config, folder))
    precision = precision_of(config, origin, found, captions)

    def made_with(precision: Precision) -> str:
        return spec_hash(origin, precision, config.batch_size, config.augment, captions)

    def plans(precision: Precision) -> list[EncodePlan]:
        made_by = made_with(precision)
        return [
            EncodePlan(space.clips, marker, folder, made_by, origin, config.augment, captions)
            for marker in sources
        ]

    reading = lock.reading("encode_latents", space.clips, space.vqgan(config.vqgan))
    if config.audit:
        precision = precision or config.precision
        config = replace(config, precision=precision)
        with reading:
            return audit_latents(config, plans(precision), shape, clips["spec"])
    total = sum(len(keys_of_latents(marker, config.augment)) for marker in sources)
    if found and not config.overwrite:
        wanted = made_with(precision or config.precision)
        differing = _differing(folder, found, origin, config, captions)
        workspace.refuse_other(
            folder, found, wanted, differing, cure="" if captions else flags_there(folder)
        )
    if config.dry_run:
        print(describe_devices(replace(config.request(), at_most=len(sources))))
        return f"would encode {total} latents in {len(sources)} shards into {folder}"

    inputs = {"clips": clips["fingerprint"], "vqgan": vqgan["fingerprint"]}
    inputs |= {"captions": captions.identity} if captions else {}
    run = run_on_demand("encode_latents", config, inputs)
    with reading, lock.writing(folder, "encode_latents"), run as begin:
        anew = bool(found and config.overwrite)
        if anew and captions and config.text_encoder:
            check_source(config.text_encoder, folder, captions)
        markers, made, pool = list[Marker](), list[Marker](), None
        if precision and not (anew or config.verify):
            markers = finished_latents(plans(precision))
        if missing := len(sources) - len(markers):
            asked = config.text_encoder or storage.join(folder, FOLDER)
            text_bytes = encoder_bytes(asked, captions) if captions else 0
            pool = start_pool(config, precision, missing, clips["spec"], text_bytes)
            precision = pool.config.precision
        assert precision is not None
        lock.refuse_taken(folder)
        if anew:
            # What cannot be encoded, or not be told of, was found before. The encoder that is there
            # may be the one that is asked for.
            begin()
            storage.keep_only(folder, [lock.NAME, *(captions.names if captions else ())], FILES)
        if captions and config.text_encoder:
            publish_encoder(config.text_encoder, folder, captions)
        if pool:
            markers, made = encode_missing(plans(precision), markers, pool, begin)
        made_by = made_with(precision)
        index = latents_index(
            markers, origin, made_by, clips, vqgan, shape, config.augment, captions
        )
        encoder = captions.names if captions else set[str]()
        lock.refuse_taken(folder)
        storage.keep_only(folder, files_of(index["shards"]) | encoder, FILES)
        if not made and workspace.published(folder, "index.json") == index:
            how = "checksum" if config.verify else "size and time"
            return f"{total} latents are there already, verified by {how}"
        storage.publish_json(index, storage.join(folder, "index.json"))
        encoded = sum(len(marker.keys) for marker in made)
        begin().metrics({"throughput/clips_per_s": encoded / (time.monotonic() - started)})
        begin().metrics({f"latent/std_{c}": value for c, value in enumerate(index["std"])})
        begin().output(index["fingerprint"])
    told = f", captions of {index['text']['clips']} clips" if captions else ""
    return f"{total} latents of {'×'.join(map(str, shape))}{told}"


def captions_of(config: EncodeLatents, folder: str, clips: list[Marker]) -> Captions | None:
    """The captions of clips that are to be encoded, or that were, for the audit; None for none.
    `UserError` where no clip has one, one is no text, or nothing can encode them."""
    if config.audit:
        return captions_there(require(folder, "index.json", "encode_latents"))
    if config.text_encoder is None:
        return None
    refuse_missing_library()
    if not manifest.captioned(config.workspace.manifest, config.caption_column):
        raise UserError(
            f"the column {config.caption_column!r} is empty for all videos that gave clips: leave "
            "--text-encoder out, or pass the --caption-column that is filled"
        )
    captions = captions_by(config.text_encoder, config.caption_column)
    for marker in clips:
        for video, _ in manifest.from_marker(marker.details):
            captions.of(from_text(video.columns) | {"source": video.path})
    return captions


def _differing(
    folder: str, found: str, origin: Origin, config: EncodeLatents, captions: Captions | None = None
) -> str:
    """What makes latents of other settings differ from those that are wanted, in words."""
    index = workspace.published(folder, "index.json") or {}
    before, wanted = index.get("origin", {}), asdict(origin)
    there = captions_there(index)
    if before and there != captions:
        old, new = (each.in_words if each else "none" for each in (there, captions))
        return f"captions {old} → {new}"
    other = [words for name, words in audit.NAMES.items() if before.get(name) != wanted[name]]
    if before and other:
        return ", ".join(other)
    for augment in get_args(Augment):
        if augment != config.augment and begun_with(
            found, origin, config.batch_size, augment, captions
        ):
            return f"augment {augment} → {config.augment}"
    if precision := begun_with(found, origin, config.batch_size, config.augment, captions):
        return f"precision {precision} → {config.precision}"
    return f"batch_size, now {config.batch_size}" if before else ""


def augment_there(config: EncodeLatents, folder: str) -> Augment:
    """How the latents that are there were augmented; `UserError` if --augment asks otherwise."""
    there: Augment = require(folder, "index.json", "encode_latents").get("augment", "none")
    if config.augment not in ("none", there):
        raise UserError(
            f"--audit looks at the latents in {folder}, which are without mirror images: leave "
            f"--augment {config.augment} out"
        )
    return there


def precision_of(
    config: EncodeLatents, origin: Origin, found: str | None, captions: Captions | None = None
) -> Precision | None:
    """The precision of the latents; None if the cluster has to be asked what is fast there.

    Where `--precision auto` leaves it open, latents are finished as they were begun.
    """
    if config.precision != "auto":
        return config.precision
    if found is None or (config.overwrite and not config.audit):
        return None
    return begun_with(found, origin, config.batch_size, config.augment, captions)


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


def finished_latents(plans: list[EncodePlan]) -> list[Marker]:
    """The markers of all latents that are there as planned: the driver sees it by itself."""
    found = untouched(plans[0].folder, [plan.marker.name for plan in plans])
    return [m for plan, m in zip(plans, found, strict=True) if m and plan.is_of(m)]


def start_pool(
    config: EncodeLatents,
    precision: Precision | None,
    shards: int,
    clip_spec: dict[str, Any],
    text_bytes: int = 0,
) -> Pool:
    """The actors for so many shards. If no precision is given, the cluster decides what it is."""
    devices = choose_devices(replace(config.request(), at_most=shards))
    precision = precision or settle_precision(devices)
    return Pool(replace(config, precision=precision), devices, clip_spec, text_bytes)


def encode_missing(
    plans: list[EncodePlan], there: list[Marker], pool: Pool, begin: Callable[[], Run]
) -> tuple[list[Marker], list[Marker]]:
    """Have the shards encoded, or verified, that are not among those `there`; returns the markers
    of all, in order, and of those that were made."""
    markers, made = {marker.name: marker for marker in there}, list[Marker]()

    def log(done: int, counts: Mapping[str, float]) -> None:
        if made:
            begin().progress(done, counts)

    rows = [
        {"plan": plan, "verify": pool.config.verify}
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
    set_up_ray_data(ray.data.DataContext.get_current())
    encoder = (config.workspace.vqgan(config.vqgan), config.batch_size, config.precision)

    def start(rows: list[dict], where: dict[str, Any]) -> Iterable[dict]:
        graph = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            tasks.actor(actor),
            fn_constructor_args=(*encoder, devices.kind, pool.decoders.map),
            **pool.actors(),
            **where,
        )
        return graph.iter_rows()

    yield from tasks.done(rows, start, needs="GPU" if devices.gpus_per_worker else "CPU")


def latents_index(
    markers: list[Marker],
    origin: Origin,
    made_by: str,
    clips: dict,
    vqgan: dict,
    shape: list[int],
    augment: Augment,
    captions: Captions | None = None,
) -> dict[str, Any]:
    """`latents/NAME/index.json`: the content of the shards, and what they were made from."""
    mean, std = channel_statistics(markers)
    clips_of = Counter[float]()
    for marker in markers:
        clips_of.update({float(fps): n for fps, n in marker.details["fps"].items()})
    return {
        "vqgan": vqgan["fingerprint"],
        "clips": clips["fingerprint"],
        "origin": asdict(origin),
        "spec_hash": made_by,
        "classes": clips["classes"],
        **rates.summary(clips_of),
        "dtype": "float16",
        "shape": shape,
        "mean": mean,
        "std": std,
        "shards": [marker.name for marker in markers],
        "fingerprint": content_fingerprint(markers),
        **({} if augment == "none" else {"augment": augment}),
        **({"text": captions.in_index(markers)} if captions else {}),
    }


def audit_latents(
    config: EncodeLatents, plans: list[EncodePlan], shape: list[int], clip_spec: dict[str, Any]
) -> str:
    """Check origin, shape and keys of all latents, and encode a sample of the clips again."""
    folder = config.workspace.latents(config.vqgan)
    index = require(folder, "index.json", "encode_latents")
    markers = load_markers(folder, index, "encode_latents")
    audit.check_origin(folder, index, markers, plans[0].origin)
    audit.check_shape(folder, index, shape)
    if captions := plans[0].captions:
        check_encoder(folder, captions)
    audit.check_pairs(folder, markers, [plan.marker for plan in plans], config.augment)
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
    pool = start_pool(config, config.precision, len(rows), clip_spec)
    found = [d for row in on_actors(AuditShard, rows, pool) for d in audit.differences_of(row)]
    return audit.judge(folder, found, config.audit_tolerance)
