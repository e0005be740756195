"""What the driver of `shard_videos` does itself for a bucket of videos: time and memory.

    python -m benchmarks.driver [--videos N]

The listing and the workers are simulated: videos come as sources, one by one, and each shard comes
back as the marker of 64 sound videos of 15 clips. All else is the job's own code: columns, splits,
plans and their parts, markers, report, account, index. Neither Ray's scheduler nor storage but for
the local disk is in it; what the simulation takes itself is left out of the seconds, not of the
memory.
"""

from __future__ import annotations

import argparse
import pickle
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines import shard_videos as page
from pipelines.io import storage
from pipelines.io.markers import Marker
from pipelines.sharding import manifest
from pipelines.sharding.clip_shards import ShardPlan
from pipelines.sharding.manifest import Account, Source
from pipelines.sharding.plans import Plans
from pipelines.sharding.settings import ShardVideos
from pipelines.sharding.source_table import SourceTable

CLIPS = 15
SOUND = Account("ok", None, CLIPS, 10.0, 25.0, 320, 240, "mpeg4", 250)


def synthetic(count: int) -> Iterator[Source]:
    """A listing as long as that of a large bucket, with paths and etags of usual length."""
    for index in range(count):
        path = f"class-{index % 700:03d}/part-{index % 997:04d}/video_{index:010d}.mp4"
        etag = f"{index:032x}"
        video = Source(path, f"s3://a-bucket/videos/{path}", 800_000, etag, None, path[:9], "train")
        yield replace(video, split="val") if int(video.id[:8], 16) < 2**32 // 50 else video


def marker_of(plan: ShardPlan) -> bytes:
    """As a worker gives it back."""
    accounts = [(source, SOUND) for source in plan.sources]
    keys = [f"{int(s.id, 16) ^ n:016x}" for s in plan.sources for n in range(CLIPS)]
    details = manifest.to_marker(accounts) | {"numbering": plan.numbering}
    sources = [source.id for source in plan.sources]
    made = Marker(
        plan.name, "0" * 64, 316_000_000, sorted(keys), sources, plan.spec.hash, "", details
    )
    return made.to_json()


class Simulation:
    """Stands for Ray, and keeps account of the time that it takes itself."""

    def __init__(self) -> None:
        self.own_s = 0.0
        self.part_bytes = 0

    def on_workers(
        self, work: Any, plans: Plans, config: ShardVideos
    ) -> Iterator[tuple[ShardPlan, dict]]:
        """As `shard_videos.on_workers`, in columns that are pickled but not sent."""
        for part in plans.parts():
            self.part_bytes += len(pickle.dumps(part, 5))
        for number in plans.largest_first():
            started = time.process_time()
            marker = marker_of(plans[number])
            self.own_s += time.process_time() - started
            yield plans[number], {"marker": marker, "made": True}


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def listed_s(count: int) -> float:
    """Seconds that the simulated listing takes by itself."""
    started = time.process_time()
    for _ in synthetic(count // 10):
        pass
    return 10 * (time.process_time() - started)


def simulate(count: int, place: Path) -> dict[str, float]:
    """Seconds of processor time by step, and peak memory in GB."""
    config = ShardVideos(root=str(place))
    simulation, own_listing_s = Simulation(), listed_s(count)
    started = time.process_time()
    plans = page.plans_of(SourceTable(synthetic(count)), config)
    planned = time.process_time()
    original, page.on_workers = page.on_workers, simulation.on_workers  # type: ignore[assignment]
    try:
        plans, report = page.run_until_classes_hold(plans, config, place, _no_run)
    finally:
        page.on_workers = original
    counted = time.process_time()
    index = page.clips_index(plans, report.shards)
    report.manifest.publish(config.workspace.manifest)
    storage.publish_json(index, f"{config.workspace.clips}/index.json")
    ended = time.process_time()
    assert report.videos == count and report.counts() == {"ok": count}
    return {
        "shards": len(plans),
        "plan_s": planned - started - own_listing_s,
        "markers_s": counted - planned - simulation.own_s,
        "account_s": ended - counted,
        "all_s": ended - started - own_listing_s - simulation.own_s,
        "plans_gb": simulation.part_bytes / 1e9,
        "account_gb": Path(config.workspace.manifest).stat().st_size / 1e9,
        "index_mb": Path(config.workspace.clips, "index.json").stat().st_size / 1e6,
        "peak_gb": peak_gb(),
    }


class _NoRun:
    def progress(self, done: int, counts: Any) -> None:
        pass


def _no_run() -> Any:
    return _NoRun()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vqvdm-") as place:
        for name, value in simulate(options.videos, Path(place)).items():
            print(f"{name:<12}{value:>12.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
