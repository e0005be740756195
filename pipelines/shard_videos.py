"""Sharding: videos to fixed-length clips in WebDataset shards.

    listing ──▶ plan (video → split, shard) ──▶ one task a shard ──▶ marker ──▶ manifest, index

The plan needs a listing only; if near-duplicates are to be left out, every video is hashed
first. A task reads its videos one after the other, writes one shard and returns its account
of them; pixels never pass through Ray's object store. A shard whose marker matches the plan is
kept, so a killed job continues where it stopped.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import ray

from pipelines.cluster import tasks
from pipelines.cluster.placement import join_for_tasks
from pipelines.io import checksums, lock, other_settings, storage, workspace
from pipelines.io.markers import (
    SHARD_FILES,
    Listing,
    Marker,
    Written,
    clear,
    content_fingerprint,
    files_of,
    filled_with,
    to_be_cleared,
)
from pipelines.io.progress import Progress
from pipelines.io.scratch import scratch
from pipelines.sharding import foresight, manifest, marker_cache
from pipelines.sharding.clip_shards import (
    DecodeLimits,
    ShardPlan,
    make_shard,
    numbering,
)
from pipelines.sharding.clips import SCORES, ClipSpec
from pipelines.sharding.finished import hashes_there, standing
from pipelines.sharding.marker_cache import MarkerCache, Shard
from pipelines.sharding.near_duplicates import NearDuplicate, compare, with_spans
from pipelines.sharding.perceptual_hash import hash_shard
from pipelines.sharding.plan import assign_shards
from pipelines.sharding.plans import PART, Plans
from pipelines.sharding.report import Report
from pipelines.sharding.settings import ShardVideos
from pipelines.sharding.source_table import SourceTable
from pipelines.sharding.sources import list_sources, sampled
from pipelines.tracking.run import Run
from pipelines.tracking.start import run_on_demand
from vqvdm.errors import IncompleteError, UserError

FILES = re.compile(rf"{SHARD_FILES.pattern}|{marker_cache.NAME}")
"""Names of the files of a folder of clips."""
ROUNDS = 4
"""The first tells which classes have clips, the second numbers them; others are for retries."""


def plan_shards(config: ShardVideos) -> Plans:
    """The plans of all shards, from a listing alone."""
    root = config.workspace.root_below(config.videos_uri)
    if root:
        print(f"note: {root}, where jobs publish, is no input", flush=True)
    sources = list_sources(config.videos_uri, config.selection, root)
    if config.limit:
        sources = sampled(sources, config.limit)
    return plans_of(sources, config)


def plans_of(sources: SourceTable, config: ShardVideos) -> Plans:
    """The plans of all shards of these videos."""
    listed = sources.classes
    index = workspace.published(config.workspace.clips, "index.json")
    spec = ClipSpec(
        frames=config.frames,
        size=config.size,
        stride=config.stride or config.frames,
        rates=tuple(config.rates),
        classes=tuple(sorted(listed)),
        scenes=config.scenes,
        crop_bars=config.crop_bars,
        limits=config.limits,
        filters=config.filters,
        scores=SCORES if config.scores else (),
    )
    spec, numberings = _as_there(spec, index)
    shard_bytes = config.shard_mb and config.shard_mb * 2**20
    places = {
        place.name: place for place in assign_shards(sources, config.videos_per_shard, shard_bytes)
    }
    limits = DecodeLimits(config.timeout_s, config.max_memory_gb)
    return Plans(
        sources,
        places,
        spec,
        config.workspace.clips,
        limits,
        listed_classes=listed,
        numberings=frozenset() if config.overwrite else numberings,
    )


def _as_there(spec: ClipSpec, index: dict | None) -> tuple[ClipSpec, frozenset[str]]:
    """If the clips that are there were cut so: with their classes, and the numberings of classes
    that they may have."""
    if not index or index.get("spec_hash") != spec.hash:
        return spec, frozenset()
    # Whether a class has clips is known once its videos were cut: if not, it is left out.
    classes = tuple(sorted(set(spec.classes) - set(index.get("without_clips", ()))))
    numberings = frozenset((numbering(index["classes"]), *index.get("numberings", ())))
    return replace(spec, classes=classes), numberings


def on_workers(
    work: Callable[[dict], dict], plans: Plans, config: ShardVideos, **columns: Any
) -> Iterator[tuple[ShardPlan, dict]]:
    """Run a task on each plan; yields plans and results in the order of completion. Without plans
    no cluster is joined.

    One graph takes all of them, at most as many at a time as there are cores, so that a long one
    holds up no other. A row has the number of a plan; the plans are in columns, in Ray's store.
    """
    if not len(plans):
        return
    join_for_tasks()
    parts = [ray.put(part) for part in plans.parts()]
    folder, owner = plans.folder, plans.owner

    @wraps(work)
    def with_plan(row: dict) -> dict:
        if owner:
            lock.refuse_unseen_once(folder, owner)
        part, number = divmod(row["shard"], PART)
        return work(row | {"plan": ray.get(parts[part])[number]}) | {"shard": row["shard"]}

    asked = {"retry": config.retry_failed, "verify": config.verify}
    rows = [{"shard": number, **asked, **columns} for number in plans.largest_first()]
    for row in tasks.run(rows, with_plan, num_cpus=1, concurrency=config.num_workers):
        yield plans[row["shard"]], row


def find_near_duplicates(plans: Plans, config: ShardVideos) -> dict[int, NearDuplicate]:
    """Hash all videos, and compare the hashes."""
    folder = config.workspace.perceptual_hashes
    progress = Progress("shards hashed", len(plans))

    def rows() -> Iterator[dict]:
        missing = []
        for name, hashes in hashes_there(plans, config):
            if hashes is None:
                missing.append(name)
            else:
                yield {"name": name, "hashes": hashes}
        yield from (
            row for _, row in on_workers(hash_shard, plans.only(missing), config, hashes=folder)
        )

    def hashed() -> Iterator[dict]:
        for row in rows():
            progress.add(1, videos=len(row["hashes"]))
            yield row

    found = compare(plans.places, hashed(), len(plans.sources), config.filters.min_distance)
    lock.refuse_taken(config.workspace.clips)
    storage.keep_only(folder, [f"{name}.json" for name in plans.places], SHARD_FILES)
    return with_spans(found, plans.sources.first_spans_N)


def finished_shards(
    plans: Plans, config: ShardVideos, listed: Listing
) -> Iterator[tuple[ShardPlan, Marker, bool, tuple[Written, Written]]]:
    """The marker of every shard, whether this job made it, and what is known of its two files:
    first those that stand, then the others, as tasks finish them. With --verify all are left to
    tasks, which read them."""
    left = dict.fromkeys(plans.places)
    for plan, marker in () if config.verify else standing(plans, config, listed):
        del left[plan.name]
        tar, own = (listed.get(f"{plan.name}.{kind}", (0, None)) for kind in ("tar", "json"))
        yield plan, marker, False, (tar, own)
    for plan, row in on_workers(make_shard, plans.only(left), config):
        marker = Marker.from_json(row["marker"])
        yield plan, marker, row["made"], ((marker.bytes, None), (len(row["marker"]), None))


def run_plans(
    plans: Plans, config: ShardVideos, report: Report, begin: Callable[[], Run], cache: MarkerCache
) -> None:
    """Make or verify every shard, and report on it: first on those that stand and are known."""

    def log(done: int, counts: Mapping[str, float]) -> None:
        if report.made:
            begin().progress(done, counts)

    progress = Progress("shards", len(plans), log=log, total_bytes=int(plans.bytes_N.sum()))
    bytes_of = dict(zip(plans.places, plans.bytes_N.tolist(), strict=True))
    left = dict.fromkeys(plans.places)

    listed = storage.written_below(plans.folder)
    for known in () if config.verify else cache.find(plans, listed, config.retry_failed):
        names = known["name"].to_pylist()
        bytes_done = sum(bytes_of[name] for name in names)
        for name in names:
            del left[name]
        progress.add(len(names), bytes_done, left, **report.add_known(known))
    for plan, marker, made, files in finished_shards(plans.only(left), config, listed):
        del left[plan.name]
        accounts = manifest.at_present(marker.details, plan.sources)
        manifest.reconcile(accounts, marker)
        counts = report.add(marker, accounts, made, files)
        progress.add(1, bytes_of[plan.name], left, **counts)


def run_until_classes_hold(
    plans: Plans, config: ShardVideos, place: Path, begin: Callable[[], Run], cache: MarkerCache
) -> tuple[Plans, Report]:
    """Make every shard, with the indices of just those classes that turn out to have clips."""
    for attempt in range(ROUNDS):
        (place / f"{attempt}").mkdir()
        report = Report(place / f"{attempt}", cache)
        run_plans(plans, config, report, begin, cache)
        if not report.clips_of or set(report.clips_of) == set(plans.spec.classes):
            return plans, report
        plans = plans.with_classes(report.clips_of)
    raise RuntimeError(f"classes with clips differ in each of {ROUNDS} rounds")


def clips_index(plans: Plans, made: list[Shard]) -> dict:
    """`clips/index.json`: the content of the shards."""
    counts, spec = Counter[str](), plans.spec
    for shard in made:
        counts[shard.split] += shard.clips
    without = sorted(plans.listed_classes - set(spec.classes))
    told = {shard.numbering for shard in made if shard.numbering}
    earlier = sorted(told - {numbering(spec.classes)})
    return {
        "spec": spec.recorded,
        "spec_hash": spec.hash,
        "classes": list(spec.classes),
        "counts": dict(counts),
        "shards": [shard.name for shard in made],
        "fingerprint": content_fingerprint(made),
        # The account is published before the index: its fingerprint here proves that it is there.
        "account": checksums.fingerprint([shard.account for shard in made]),
        **({"without_clips": without} if without else {}),
        **({"numberings": earlier} if earlier else {}),
    }


def shard_videos(config: ShardVideos) -> str:
    """Cut every video below --videos into clips under ROOT/clips."""
    config.check()
    started = time.monotonic()
    plans = plan_shards(config)
    spec, videos = plans.spec, len(plans.sources)
    folder = config.workspace.clips
    if config.dry_run:
        if not config.overwrite:
            _refuse_other(folder, spec)
        return foresight.in_words(plans, config)
    run = run_on_demand("shard_videos", config)
    writing, known = lock.writing(folder, "shard_videos"), marker_cache.opened(folder, spec)
    with writing as owner, run as begin, scratch() as place, known as cache:
        plans.owner = owner
        if not config.overwrite:
            _refuse_other(folder, spec)
        elif to_be_cleared(folder, spec.hash):
            # What cannot be cut, or not be told of, is found before anything is deleted.
            join_for_tasks()
            begin()
            lock.refuse_taken(folder)
            storage.keep_only(config.workspace.perceptual_hashes, [], SHARD_FILES)
            clear(folder, [lock.NAME], FILES)
        if config.filters.min_distance:
            plans.near_duplicates = find_near_duplicates(plans, config)
        plans, report = run_until_classes_hold(plans, config, place, begin, cache)
        assert report.videos == videos, report.videos
        notes = plans.note_on_spans() + report.notes_on_classes(plans.listed_classes)
        notes += report.notes_on_losses(config.workspace.manifest)
        print(report.table(), *notes, sep="\n", flush=True)
        index = clips_index(plans, report.shards)
        clips = sum(index["counts"].values())
        lock.refuse_taken(folder)
        if not clips:
            report.manifest.publish(config.workspace.manifest)
            storage.keep_only(folder, [lock.NAME], FILES)
            raise UserError(report.why_no_clips(config.workspace.manifest))
        kept = files_of(index["shards"]) | {marker_cache.NAME}
        listed = storage.keep_only(folder, kept, FILES)
        if not report.made and workspace.published(folder, "index.json") == index:
            if report.known < len(report.shards):
                report.publish(None, folder, spec, listed)
            _refuse_failures(report, config)
            how = "checksum" if config.verify else "size and time"
            return f"{clips} clips are there already, verified by {how}"
        report.publish(config.workspace.manifest, folder, spec, listed)
        report.track(begin(), folder, time.monotonic() - started)
        _refuse_failures(report, config)
        lock.refuse_taken(folder)
        storage.publish_json(index, storage.join(folder, "index.json"))
        begin().output(index["fingerprint"])
    print("look at the clips: videos/contact_sheet.png of this run in MLflow", flush=True)
    lost = [f"{n} {state}" for state, n in report.counts().items() if state != "ok"]
    return f"{clips} clips of {videos} videos" + (f", not ok: {', '.join(lost)}" if lost else "")


def _refuse_other(folder: str, spec: ClipSpec) -> None:
    """`UserError` if there are clips that were cut otherwise."""
    if found := filled_with(folder):
        other_settings.refuse_other(folder, found, spec.hash, _differing(folder, spec))


def _differing(folder: str, spec: ClipSpec) -> str:
    """How clips of other settings were cut, where that differs; empty if nothing tells."""
    index = workspace.published(folder, "index.json")
    if index is None:
        return ""
    before = {name: v for name, v in index["spec"].items() if name not in ("classes", "hash")}
    return other_settings.changed(before, spec.cut)


def _refuse_failures(report: Report, config: ShardVideos) -> None:
    if config.strict and report.failed:
        # Everything that can be made was made: the same command without --strict accepts it.
        raise IncompleteError(
            f"--strict: {report.failed} of {report.videos} videos failed; "
            f"{config.workspace.manifest} has the reasons, --retry-failed tries them again"
        )
