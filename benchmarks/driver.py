"""What the driver of `shard_videos` does itself for a bucket of videos: time and memory.

    python -m benchmarks.driver [--videos N] [--again]

The bucket and the workers are simulated: its listing gives one file after the other, and each shard
comes back as the marker of 64 sound videos of 15 clips. All else is the job's own code: listing,
labels, splits, plans and their parts, markers, report, account, index. Neither Ray's scheduler nor
storage but for the local disk is in it; what the simulation takes itself is left out of the
seconds, not of the memory. With `--again` markers lie on disk, with empty tars beside them; a
second run finds one video more, and a third one nothing new.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines import shard_videos as page
from pipelines.io import storage, workspace
from pipelines.io.disk import FileInfo
from pipelines.io.markers import Marker, files_of
from pipelines.sharding import marker_cache
from pipelines.sharding.clip_shards import ShardPlan
from pipelines.sharding.manifest import Account, Source
from pipelines.sharding.plans import Plans
from pipelines.sharding.settings import ShardVideos

BUCKET, CLASSES, VAL_FRACTION = "s3://a-bucket/videos", 700, 0.02
CLIPS, SHARD_BYTES = 15, 316_000_000
ENDS = [f"{number:02x}" for number in range(CLIPS)]
SOUND = Account("ok", None, CLIPS, 10.0, 25.0, 320, 240, "mpeg4", 250)


def files(count: int) -> Iterator[FileInfo]:
    """A listing as long as that of a large bucket, with paths and etags of usual length."""
    of_class = -(-count // CLASSES)
    for index in range(count):
        path = f"class-{index // of_class:03d}/part-{index % 997:04d}/video_{index:010d}.mp4"
        yield FileInfo(f"{BUCKET}/{path}", 800_000, f"{index:032x}")


def synthetic(count: int) -> Iterator[Source]:
    """The videos of that bucket as sources."""
    for file in files(count):
        path = file.uri[len(BUCKET) + 1 :]
        video = Source(path, file.uri, file.size, file.etag, None, path[:9], "train")
        is_val = int(video.id[:8], 16) < VAL_FRACTION * 2**32
        yield replace(video, split="val") if is_val else video


def marker_of(plan: ShardPlan) -> bytes:
    """As a worker gives it back, but in one line: to indent it would take most of the time."""
    rows = [{"source": s.to_dict(), "account": SOUND.to_dict()} for s in plan.sources]
    details = {"videos": rows, "numbering": plan.numbering}
    sources = [source.id for source in plan.sources]
    keys = [id[:14] + end for id in sources for end in ENDS]
    made_from, spec_hash = plan.made_from, plan.spec.hash
    made = Marker(plan.name, "0" * 64, SHARD_BYTES, keys, sources, spec_hash, made_from, details)
    return json.dumps(vars(made)).encode()


class Simulation:
    """Stands for the bucket and for Ray, and keeps account of the time that it takes itself."""

    def __init__(self, count: int, is_published: bool) -> None:
        self.count, self.is_published = count, is_published
        self.own_s = self.started_s = 0.0
        self.part_bytes = self.made = 0

    @contextmanager
    def _apart(self) -> Iterator[None]:
        started = time.process_time()
        yield
        self.own_s += time.process_time() - started

    def listed(self, uri: str, folders: bool = False) -> Iterator[FileInfo]:
        """As `storage.listed`."""
        started = time.process_time()
        for _ in files(self.count // 10):
            pass
        # To look at the clock for each file would take longer than the file.
        self.own_s += 11 * (time.process_time() - started)
        yield from files(self.count)

    def on_workers(
        self, work: Any, plans: Plans, config: ShardVideos
    ) -> Iterator[tuple[ShardPlan, dict]]:
        """As `shard_videos.on_workers`, in columns that are pickled but not sent."""
        self.started_s = time.process_time() - self.own_s
        if not len(plans):
            return
        for part in plans.parts():
            self.part_bytes += len(pickle.dumps(part, 5))
        for number in plans.largest_first():
            plan = plans[number]
            with self._apart():
                marker = marker_of(plan)
                if self.is_published:
                    _publish(plan, marker)
            self.made += 1
            yield plan, {"marker": marker, "made": True}


def _publish(plan: ShardPlan, marker: bytes) -> None:
    """A marker beside a tar of its size, which takes no room on most disks."""
    place = Path(plan.folder, plan.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.with_suffix(".tar"), "wb") as tar:
        os.truncate(tar.fileno(), SHARD_BYTES)
    place.with_suffix(".json").write_bytes(marker)


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def simulate(count: int, place: Path, is_published: bool = False) -> dict[str, float]:
    """Seconds of processor time by step, and peak memory in GB up to its end."""
    config = ShardVideos(videos=BUCKET, root=str(place), val_fraction=VAL_FRACTION)
    simulation = Simulation(count, is_published)
    found: dict[str, float] = {}
    began = before = time.process_time()

    def done(step: str) -> None:
        nonlocal before
        now = time.process_time() - simulation.own_s
        found[f"{step}_s"], found[f"{step}_gb"] = now - before, peak_gb()
        print(f"{step:<10}{now - before:>10.2f} s, up to {peak_gb():.2f} GB", flush=True)
        before = now

    originals = page.on_workers, storage.listed
    page.on_workers, storage.listed = simulation.on_workers, simulation.listed  # type: ignore[assignment]
    try:
        sources = page.list_sources(config.videos_uri, config.selection)
        done("listing")
        plans = page.plans_of(sources, config)
        done("plan")
        folder = config.workspace.clips
        known = marker_cache.opened(folder, plans.spec)
        with tempfile.TemporaryDirectory(dir=place) as rounds, known as cache:
            plans, report = page.run_until_classes_hold(plans, config, Path(rounds), _no_run, cache)
            done("markers")
            index = page.clips_index(plans, report.shards)
            kept = files_of(index["shards"]) | {marker_cache.NAME}
            files = storage.keep_only(folder, kept, page.FILES)
            if report.made or workspace.published(folder, "index.json") != index:
                report.publish(config.workspace.manifest, folder, plans.spec, files)
                storage.publish_json(index, f"{folder}/index.json")
                files = storage.written_below(folder)
            done("account")
    finally:
        page.on_workers, storage.listed = originals
    assert report.videos == count and report.counts() == {"ok": count}
    return found | {
        "all_s": before - began,
        "worker_s": simulation.started_s - began,
        "shards": len(plans),
        "made": simulation.made,
        "known": report.known,
        "parts_gb": simulation.part_bytes / 1e9,
        "account_file_gb": Path(config.workspace.manifest).stat().st_size / 1e9,
        "index_mb": Path(folder, "index.json").stat().st_size / 1e6,
        "cache_mb": files.get(marker_cache.NAME, (0, None))[0] / 1e6,
    }


class _NoRun:
    def progress(self, done: int, counts: Any) -> None:
        pass


def _no_run() -> Any:
    return _NoRun()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument(
        "--again", action="store_true", help="run again with one video more, and once more"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vqvdm-") as place:
        for more in (0, 1, 1) if options.again else (0,):
            count = options.videos + more
            print(f"{count} videos")
            for name, value in simulate(count, Path(place), options.again).items():
                print(f"{name:<16}{value:>12.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
