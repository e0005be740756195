"""A long video takes no more memory than a short one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests.odd_videos import write

CUT = """
import resource, sys
from pathlib import Path
from pipelines.io.markers import Marker
from pipelines.sharding.clip_shards import DecodeLimits, ShardPlan, decoding_process, make_shard
from pipelines.io import shards
from pipelines.io.clips import ClipSpec
from pipelines.io.manifest import Source
video, folder = sys.argv[1:]
spec = ClipSpec(16, 128, 16, (None,), ())
source = Source("a.mp4", video, 1, None, 1, None, "train")
row = make_shard({"plan": ShardPlan(folder, "train-000000", (source,), spec, DecodeLimits(600.0)), "retry": False, "verify": True})
decoding_process(2.0).close()
kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
peaks = [resource.getrusage(kind).ru_maxrss / 2**20 for kind in kinds]
print(len(Marker.from_json(row["marker"]).keys), *peaks)
"""  # noqa: E501


def repeated(path: Path, target: Path, times: int) -> Path:
    """The same packets repeated, one after the other."""
    with av.open(str(target), "w") as out:
        stream, length = None, 0
        for _ in range(times):
            with av.open(str(path)) as container:
                source = container.streams.video[0]
                stream = stream or out.add_stream_from_template(source)
                for packet in container.demux(source):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + length, packet.dts + length
                        packet.stream = stream
                        out.mux(packet)
                length += source.duration
    return target


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ten_minutes_of_full_hd_take_a_gigabyte_and_a_half_at_most(tmp_path: Path) -> None:
    """The sum of the peaks of the worker and of its decoding process."""
    rng = np.random.default_rng(0)
    grain = rng.integers(0, 256, (68, 150, 3), np.uint8).repeat(16, 0).repeat(16, 1)[:1080]
    frames = [np.ascontiguousarray(grain[:, 16 * n : 16 * n + 1920]) for n in range(25)]
    options = {"preset": "ultrafast", "size": (1080, 1920)}
    half = write(tmp_path / "half.mp4", "libx264", count=750, frames=frames * 30, **options)  # type: ignore[arg-type]
    path = repeated(half, tmp_path / "a.mp4", 20)
    command = [sys.executable, "-c", CUT, str(path), str(tmp_path / "clips")]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stderr
    clips, worker_gb, decoder_gb = map(float, done.stdout.split())
    print(f"{worker_gb:.2f} GB for the worker, {decoder_gb:.2f} GB to decode")
    assert clips == 20 * 750 // 16
    assert worker_gb + decoder_gb < 1.5
