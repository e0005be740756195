"""Encoders and their decoding tasks: order, bounds, deaths, and clusters with hardly a core."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from pipelines import encode_latents as page
from pipelines.cluster.ahead import Ahead
from pipelines.video.encoder import decode_clips
from pipelines.video.lossless import encode_lossless
from tests.e2e.conftest import run_job
from tests.e2e.undisturbed import Undisturbed, names_and_sums, prepared
from vqvdm.errors import UserError

pytestmark = pytest.mark.e2e
AHEAD = Ahead(3, 0.1)
REPOSITORY = Path(__file__).parents[2]


def test_results_come_in_order_and_are_not_begun_long_before_they_are_wanted(
    local_ray: pytest.MonkeyPatch,
) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 20:
            taken += 1
            yield taken

    def work(item: int) -> int:
        time.sleep(0.2 * (item % 3 == 0))  # Some are overtaken.
        return item**2

    for done, result in enumerate(AHEAD.map(work, items()), 1):
        assert result == done**2
        assert taken <= done + AHEAD.count
    assert taken == 20


def test_a_task_whose_process_dies_is_repeated(
    local_ray: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def work(item: int) -> int:
        place = tmp_path / str(item)
        if item == 2 and not place.exists():
            place.touch()
            os._exit(1)
        return item

    assert list(AHEAD.map(work, range(6))) == list(range(6))
    assert (tmp_path / "2").exists()


def peak_of_object_store(batches: int, clips: list[bytes]) -> int:
    """The most bytes in the object store while so many batches are decoded."""
    free = lambda: ray.available_resources().get("object_store_memory", 0)  # noqa: E731
    # What was there before may be about to be freed: the most that is seen free is all.
    seen, running = [free()], True

    def sample() -> None:
        while running:
            seen.append(free())
            time.sleep(0.02)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        for frames in AHEAD.map(decode_clips, (clips for _ in range(batches))):
            assert len(frames) == len(clips)
    finally:
        running = False
        sampler.join()
    return int(max(seen) - min(seen))


def test_ten_times_the_clips_fill_the_object_store_no_more(local_ray: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 64, 64, 3), np.uint8)
    clips = [encode_lossless(clip, 8) for clip in noise]
    each = sum(map(len, clips)) + noise.nbytes
    peaks = [peak_of_object_store(batches, clips) for batches in (10, 100)]
    # The consumed one, those ahead, one more while it is waited for; two are about to be freed,
    # which a busy machine does late.
    assert all(each / 2 < peak < (AHEAD.count + 4) * each for peak in peaks), (peaks, each)


def test_latents_of_earlier_versions_are_read_and_gone_on_with(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their fingerprint says `auto`."""
    root = prepared("encode_latents", str(tmp_path), undisturbed)
    by_one = ("encode_latents", "--root", root, "--num-workers", 1)
    with monkeypatch.context() as patch:
        patch.setattr(page, "settle_precision", lambda devices: "auto")
        assert run_job(*by_one).status == 0
    before = names_and_sums(root)
    Path(root, "latents/base/train-000001.json").unlink()
    outcome = run_job(*by_one)
    assert outcome.status == 0, outcome.stderr
    assert names_and_sums(root) == before
    again = run_job(*by_one).stdout
    assert "there already, verified by size and time" in again
    verified = run_job(*by_one, "--verify").stdout
    assert "there already, verified by checksum" in verified
    # Only what reads them all again chooses what to run on.
    assert "running on" in verified and "running on" not in again
    # What the cluster lacks is told before anything is deleted.
    assert run_job(*by_one, "--overwrite", "--device", "cuda").status == 2
    assert names_and_sums(root) == before
    audited = run_job(*by_one, "--audit")
    assert audited.status == 0 and "latents encoded again" in audited.stdout
    # It is what they say now that `auto` is known, but for the fingerprint.
    tars = {name: found for name, found in before.items() if name.endswith(".tar")}
    assert tars.items() <= undisturbed.expected["encode_latents"].items()


def test_overwriting_goes_on_where_it_was_killed(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the precision that it was begun with."""
    root = prepared("encode_latents", str(tmp_path), undisturbed)
    anew = ("encode_latents", "--root", root, "--num-workers", 1, "--overwrite")
    assert run_job(*anew).status == 0

    def killed(*_: object) -> None:
        raise UserError("stands for a kill before the index")

    with monkeypatch.context() as patch:
        patch.setattr(page, "latents_index", killed)
        assert run_job(*anew).status == 2
    folder = Path(root, "latents/base")
    assert not (folder / "index.json").exists()
    made = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    first = min(folder.glob("*.json"))
    first.unlink()
    monkeypatch.setattr(page, "settle_precision", lambda devices: pytest.fail("is known"))
    outcome = run_job(*anew)
    assert outcome.status == 0, outcome.stderr
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert {name for name in made if kept[name] != made[name]} <= {first.with_suffix(".tar").name}
    assert names_and_sums(root) == undisturbed.expected["encode_latents"]


ONE_CORE = """
import sys
import ray
from pipelines.cluster.devices import Devices
from pipelines.cluster.join import ray_options
from pipelines.encode_latents import Pool, on_actors
from pipelines.latents.settings import EncodeLatents
from pipelines.video.lossless import encode_lossless
from tests.e2e.conftest import run_job
import numpy as np

ray.init(num_cpus=1, num_gpus=1, include_dashboard=False, **ray_options(own=True))

class Decodes:
    "Stands for an encoder where the card is but a number."
    def __init__(self, vqgan, batch_size, precision, device, decoders):
        self.decoders = decoders
    def __call__(self, row):
        from pipelines.video.encoder import decode_clips
        found = list(self.decoders(decode_clips, [row["clips"]] * 8))
        return {"sums": [int(frames.sum()) for frames in found]}

clip = np.full((4, 16, 16, 3), 7, np.uint8)
rows = [{"clips": [encode_lossless(clip, 8)] * (n + 1)} for n in range(6)]
pool = Pool(EncodeLatents(batch_size=4), Devices("cuda", 1, 1.0), {"frames": 4, "size": 16})
found = sorted(row["sums"] for row in on_actors(Decodes, rows, pool))
assert found == [[(n + 1) * 7 * clip.size] * 8 for n in range(6)], found
for arguments in (["--overwrite"], ["--overwrite", "--num-workers", "3"]):
    outcome = run_job("encode_latents", "--root", sys.argv[1], "--device", "cpu", *arguments)
    sys.stderr.write(outcome.stderr)
    assert outcome.status == 0
"""


def test_one_core_suffices(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """With a GPU beside it, with one worker, and with more workers than fit."""
    root = prepared("encode_latents", str(tmp_path), undisturbed)
    done = subprocess.run(
        [sys.executable, "-c", ONE_CORE, root],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert names_and_sums(root) == undisturbed.expected["encode_latents"]
