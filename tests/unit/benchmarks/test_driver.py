"""The simulation of the driver runs the job's own code to its end."""

import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import driver
from pipelines.io import storage
from pipelines.sharding.settings import ShardVideos


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
    assert len(index["shards"]) == found["shards"] == 6
    steps = [found[name] for name in ("plan_s", "markers_s", "account_s")]
    assert found["all_s"] == pytest.approx(sum(steps)) and found["all_s"] < spent_s
    # Planning is a difference of two estimates, and small here.
    assert min(steps[1:]) > 0
