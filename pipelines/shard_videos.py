"""Sharding: videos to fixed-length clips in WebDataset shards.

    listing ──▶ plan (video → split, shard) ──▶ one task a shard ──▶ marker ──▶ manifest, index

The plan needs a listing only; where near-duplicates are to be left out, every video is looked
at first. A task reads its videos one after the other, writes one shard and returns its account
of them; pixels never pass through Ray's object store. A shard whose marker matches the plan is
left alone, so a job that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import ray

from pipelines import near_duplicates, tracking
from pipelines.clip_shards import FORMAT, Patience, ShardPlan, make_shard
from pipelines.config.scale import ray_options, set_up_ray_data
from pipelines.config.schema import ShardVideos
from pipelines.io import inputs, manifest, shards, storage, workspace
from pipelines.io.clips import ClipSpec
from pipelines.io.duplicates import Twin
from pipelines.io.plan import Place, SourceTable, assign_shards
from pipelines.io.scratch import scratch
from pipelines.io.video.looks import FRAMES
from pipelines.progress import Progress
from pipelines.shard_report import Report, Shard
from vqvdm.errors import IncompleteError

WAVE = 16_384
"""Shards whose plans are in memory at a time: a million videos."""


@dataclass
class Plans:
    """What is to be made: shards in order, each an object only while it is looked at."""

    sources: SourceTable
    places: dict[str, Place]
    spec: ClipSpec
    folder: str
    patience: Patience
    twins: dict[int, Twin] = field(default_factory=dict)
    """Near-duplicates, by row."""

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[ShardPlan]:
        for name, place in self.places.items():
            sources = tuple(self.sources.take(place.rows_N))
            twins = {}
            for row, source in zip(place.rows_N.tolist(), sources, strict=True):
                if twin := self.twins.get(row):
                    [kept] = self.sources.take(np.array([twin.kept]))
                    twins[source.id] = kept.path, twin.bits / FRAMES
            yield ShardPlan(self.folder, name, sources, self.spec, self.patience, twins)


def plan_shards(config: ShardVideos) -> Plans:
    """What would be made, from a listing alone."""
    sources = inputs.list_sources(config.videos_uri, config.selection)
    if config.limit and config.limit < len(sources):
        picks = np.linspace(0, len(sources) - 1, config.limit).round().astype(int)
        sources = [sources[index] for index in picks]
    classes = tuple(sorted({source.label for source in sources if source.label is not None}))
    spec = ClipSpec(
        config.frames,
        config.size,
        config.stride or config.frames,
        tuple(config.rates),
        classes,
        storage.fingerprint([FORMAT, config.recipe()]),
        config.scenes,
        config.crop_bars,
        config.limits,
        config.filters,
    )
    table = SourceTable(sources)
    places = {
        shards.shard_name(place.split, place.index): place
        for place in assign_shards(table, config.videos_per_shard)
    }
    patience = Patience(config.timeout_s, config.max_memory_gb)
    return Plans(table, places, spec, config.workspace.clips, patience)


def on_workers(
    task: Callable[[dict], dict], plans: Plans, config: ShardVideos, **about: Any
) -> Iterator[tuple[ShardPlan, dict]]:
    """What a task makes of each plan, as Ray gets them done."""
    ray.init(**ray_options())
    set_up_ray_data(ray.data.DataContext.get_current())
    waiting = iter(plans)
    while wave := {plan.name: plan for plan in islice(waiting, WAVE)}:
        rows = [{"plan": plan, "retry": config.retry_failed, **about} for plan in wave.values()]
        graph = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            task, num_cpus=1, concurrency=config.num_workers
        )
        for row in graph.iter_rows():
            yield wave[row["name"]], row


def find_duplicates(plans: Plans, config: ShardVideos) -> dict[int, Twin]:
    """Look at all videos, and compare them."""
    folder = config.workspace.looks
    watch = Progress("shards looked at", len(plans))

    def looks() -> Iterator[dict]:
        for _, row in on_workers(near_duplicates.look_at_shard, plans, config, looks=folder):
            watch.add(1, videos=len(row["looks"]))
            yield row

    least = config.filters.min_distance
    twins = near_duplicates.compare(plans.places, looks(), len(plans.sources), least)
    near_duplicates.sweep(folder, plans.places)
    return twins


def run_plans(plans: Plans, config: ShardVideos, report: Report) -> None:
    """Have every shard made or verified, and report on it."""
    watch = Progress("shards", len(plans))
    for plan, row in on_workers(make_shard, plans, config):
        marker = shards.from_json(row["marker"])
        accounts = manifest.from_marker(marker.details)
        manifest.reconcile(accounts, plan.sources, marker)
        report.add(marker, accounts, row["made"])
        watch.add(
            1,
            clips=len(marker.keys),
            frames=sum(account.frames for _, account in accounts),
            rejected=sum(account.status == "rejected" for _, account in accounts),
        )


def index_of(spec: ClipSpec, made: list[Shard]) -> dict:
    """`clips/index.json`: what is in the shards."""
    counts = Counter[str]()
    for shard in made:
        counts[shard.split] += shard.clips
    return {
        "spec": json.loads(storage.json_bytes(asdict(spec) | {"format": FORMAT})),
        "spec_hash": spec.hash,
        "classes": list(spec.classes),
        "counts": dict(counts),
        "shards": [shard.name for shard in made],
        "fingerprint": shards.content_fingerprint(made),
        # The account is published before the index: an index that tells of it vouches for it.
        "account": storage.fingerprint([shard.account for shard in made]),
    }


def shard_videos(config: ShardVideos) -> str:
    """Cut every video below --videos into clips under ROOT/clips."""
    config.check()
    started = time.monotonic()
    plans = plan_shards(config)
    spec, videos = plans.spec, len(plans.sources)
    if config.dry_run:
        return f"would cut {videos} videos of {len(spec.classes)} classes into {len(plans)} shards"
    folder = config.workspace.clips
    found = shards.filled_with(folder)
    if found and config.overwrite:
        storage.delete(folder)
        storage.delete(config.workspace.looks)
    elif found:
        workspace.refuse_other(folder, found, spec.hash)

    if config.filters.min_distance:
        plans.twins = find_duplicates(plans, config)
    with scratch() as place:
        report = Report(place)
        run_plans(plans, config, report)
        assert report.videos == videos, report.videos
        print(report.table(), flush=True)
        index = index_of(spec, report.shards)
        shards.sweep(folder, index["shards"])
        clips = sum(index["counts"].values())
        if not report.made and workspace.published(folder, "index.json") == index:
            _refuse_failures(report, config)
            return f"{clips} clips are there already, verified"
        with tracking.run("shard_videos", config) as run:
            report.ledger.publish(config.workspace.manifest)
            report.track(run, folder, time.monotonic() - started)
            _refuse_failures(report, config)
            storage.publish_json(index, storage.join(folder, "index.json"))
            run.output(index["fingerprint"])
    lost = {state: n for state, n in report.counts().items() if state != "ok"}
    return f"{clips} clips of {videos} videos" + (f", not ok: {lost}" if lost else "")


def _refuse_failures(report: Report, config: ShardVideos) -> None:
    if config.strict and report.failed:
        # Everything that can be made was made: the same command without --strict accepts it.
        raise IncompleteError(
            f"--strict: {report.failed} of {report.videos} videos failed; "
            f"{config.workspace.manifest} has the reasons, --retry-failed tries them again"
        )
