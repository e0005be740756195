"""The simulation of the driver runs the job's own code to its end."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import driver
from pipelines.io import storage
from pipelines.sharding import marker_cache
from pipelines.sharding.settings import ShardVideos

STEPS = ("listing_s", "plan_s", "markers_s", "account_s")


def test_every_video_gets_its_row(tmp_path: Path) -> None:
    started = time.process_time()
    found = driver.simulate(300, tmp_path)
    spent_s = time.process_time() - started
    space = ShardVideos(root=str(tmp_path)).workspace
    rows = pq.read_table(space.manifest).to_pylist()
    assert {row["id"] for row in rows} == {source.id for source in driver.synthetic(300)}
    assert {(row["status"], row["clips"]) for row in rows} == {("ok", driver.CLIPS)}
    index = storage.read_json(f"{space.clips}/index.json")
    assert sum(index["counts"].values()) == 300 * driver.CLIPS
    assert len(index["shards"]) == found["shards"] == found["made"] == 6
    assert found["all_s"] == pytest.approx(sum(found[step] for step in STEPS))
    assert found["all_s"] < spent_s
    # What comes before is a difference of estimates, and small here.
    assert min(found["markers_s"], found["account_s"]) > 0


def test_the_simulated_bucket_is_that_of_the_sources(tmp_path: Path) -> None:
    simulation = driver.Simulation(400, is_published=False)
    config = ShardVideos(videos=driver.BUCKET, val_fraction=driver.VAL_FRACTION)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "listed", simulation.listed)
        found = driver.page.list_sources(config.videos_uri, config.selection)
    assert list(found) == list(driver.synthetic(400))


def test_a_video_more_makes_one_shard_anew(tmp_path: Path) -> None:
    assert driver.simulate(320, tmp_path, is_published=True)["made"] == 6
    space = ShardVideos(root=str(tmp_path)).workspace
    cache = Path(space.clips, marker_cache.NAME)
    # Shards of the same tick of the clock would not be known.
    os.utime(cache, (cache.stat().st_mtime + 2,) * 2)
    shutil.copytree(space.root, plain := tmp_path / "plain")
    again = driver.simulate(321, tmp_path, is_published=True)
    # Up to two more where the number of shards grows.
    assert 1 <= again["made"] <= 3 and again["known"] == again["shards"] - again["made"]
    assert pq.read_metadata(space.manifest).num_rows == 321
    (plain / "clips" / marker_cache.NAME).unlink()
    assert driver.simulate(321, plain, is_published=True)["known"] == 0
    for name in ("videos.parquet", "clips/index.json"):
        assert (plain / name).read_bytes() == (tmp_path / name).read_bytes()
    os.utime(cache, (cache.stat().st_mtime + 2,) * 2)
    nothing = driver.simulate(321, tmp_path, is_published=True)
    assert (nothing["made"], nothing["known"]) == (0, nothing["shards"])


MEASURE = """
import pyarrow as pa
from benchmarks import driver
for count in (20_000, 220_000):
    driver.storage.listed = driver.Simulation(count, False).listed
    config = driver.ShardVideos(videos=driver.BUCKET, val_fraction=driver.VAL_FRACTION)
    plans = driver.page.plan_shards(config)
    print(driver.peak_gb() * 2**30, pa.default_memory_pool().max_memory())
"""


@pytest.mark.long
def test_a_video_takes_a_third_of_a_kilobyte_until_it_is_planned() -> None:
    """Listing, sources and plan together, at the peak: 3 GB for ten million; as objects 1.1 kB.

    What Python holds of a few thousand at a time comes on top, whatever their number.
    """
    command, root = [sys.executable, "-c", MEASURE], Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    few, many = (list(map(float, line.split())) for line in done.stdout.splitlines())
    assert (many[1] - few[1]) / 200_000 < 300
    assert (many[0] - few[0]) / 200_000 < 600
