"""Every input is accounted for: in the table at the end, in videos.parquet, and in MLflow."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from pipelines.io import storage
from pipelines.sharding import manifest
from tests.odd_videos import cut, image_folder, write
from tests.unit.pipelines.sharding.test_perceptual_hash import made


def videos(folder: Path) -> Path:
    """Eight good videos, a damaged one, and a file that is not a video."""
    folder.mkdir()
    for number in range(8):
        write(folder / f"good-{number}.mp4", "libx264", count=20)
    cut(write(folder / "half.avi", "mpeg4"), 0.6)
    (folder / "notes.mp4").write_text("a shopping list")
    return folder


FLAGS = ("--frames", 4, "--size", 64, "--fps", "native", "--videos-per-shard", 3)


@pytest.mark.e2e
def test_every_input_is_accounted_for(job, tmp_path: Path):
    folder, root = videos(tmp_path / "videos"), tmp_path / "root"
    flags = ("--videos", folder, "--root", root, "--val-fraction", 0, *FLAGS)

    outcome = job("shard_videos", *flags, "--strict")
    assert outcome.status == 1
    assert "error: --strict: 2 of 10 videos failed" in outcome.stderr.splitlines()[-1]
    assert not (root / "clips/index.json").exists()

    outcome = job("shard_videos", *flags)
    assert outcome.status == 0
    table = {line.split()[0]: line.split()[1:] for line in outcome.stdout.splitlines() if line}
    rows = {Path(r["uri"]).name: r for r in manifest.read(f"{root}/videos.parquet").to_pylist()}
    assert len(rows) == 10
    half, notes = rows["half.avi"], rows["notes.mp4"]
    assert (half["status"], half["reason"]) == ("partial", "damaged") and half["clips"] > 3
    assert (notes["status"], notes["reason"], notes["clips"]) == ("rejected", "unreadable", 0)
    clips = 8 * 5 + half["clips"]
    says = outcome.stdout.splitlines()
    assert any(line.startswith("rejected: notes.mp4: ") for line in says)
    assert f"{root}/videos.parquet has the reason of each video" in says
    assert says[-1].endswith("10 videos, not ok: 1 partial-damaged, 1 rejected-unreadable")
    assert table["ok"] == ["8", "0", "8", "40"]
    assert table["rejected-unreadable"] == ["1", "0", "1", "0"]
    assert table["total"] == ["10", "0", "10", str(clips)]
    _check_artifacts(root)

    (folder / "notes.mp4").touch()
    before = {file: file.stat().st_mtime_ns for file in (root / "clips").glob("*.tar")}
    content = {file: file.read_bytes() for file in before}
    assert job("shard_videos", *flags, "--retry-failed").status == 0
    failed = {rows[name]["id"] for name in ("half.avi", "notes.mp4")}
    for file, time_ns in before.items():
        again = any(id in file.with_suffix(".json").read_text() for id in failed)
        assert (file.stat().st_mtime_ns != time_ns) == again
        assert file.read_bytes() == content[file]
    assert len(before) == 4


def _check_artifacts(root: Path) -> None:
    from mlflow.tracking import MlflowClient

    from pipelines.tracking.server import EXPERIMENT, tracking_uri

    client = MlflowClient(tracking_uri())
    experiment = client.get_experiment_by_name(EXPERIMENT)
    [run] = client.search_runs([experiment.experiment_id], f"tags.root = '{root}'")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["videos/ok"] == 8
    assert run.data.metrics["throughput/frames_per_s"] > 0
    rejected = client.download_artifacts(run.info.run_id, "videos/rejected.csv")
    rows = list(csv.DictReader(io.StringIO(Path(rejected).read_text())))
    assert [(row["path"], row["reason"]) for row in rows] == [
        ("half.avi", "damaged"),
        ("notes.mp4", "unreadable"),
    ]
    sheet = Image.open(client.download_artifacts(run.info.run_id, "videos/contact_sheet.png"))
    assert sheet.width == 4 * 4 * 64
    assert sheet.height % 64 == 0 and 5 * 64 <= sheet.height <= 12 * 64


def _indices(root: Path) -> dict[str, int]:
    """The class indices that the clips have, by label."""
    found = set()
    for file in (root / "clips").glob("*.tar"):
        with tarfile.open(file) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    content = json.loads(tar.extractfile(member).read())
                    found.add((content["label"], content["class_index"]))
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.e2e
def test_classes_without_clips_are_left_out(job, tmp_path: Path):
    folder, root = tmp_path / "videos", tmp_path / "root"
    for name in ("apple", "berry", "cherry"):
        (folder / name).mkdir(parents=True)
    write(folder / "berry/1.mp4", "libx264", count=40)
    write(folder / "cherry/1.mp4", "libx264", count=20)
    (folder / "apple/1.mp4").write_text("a shopping list")
    flags = ("--videos", folder, "--root", root, "--val-fraction", 0, *FLAGS)

    outcome = job("shard_videos", *flags)
    assert outcome.status == 0, outcome.stderr
    assert "note: left out, as they give no clip: 1 class, apple" in outcome.stdout
    assert "note: fewer than 8 clips to train on: 1 class, cherry (5)" in outcome.stdout
    index = storage.read_json(f"{root}/clips/index.json")
    assert (index["classes"], index["without_clips"]) == (["berry", "cherry"], ["apple"])
    assert _indices(root) == {"berry": 0, "cherry": 1}
    assert "verified" in job("shard_videos", *flags).stdout

    write(folder / "apple/1.mp4", "libx264", count=40)
    outcome = job("shard_videos", *flags)
    assert outcome.status == 0, outcome.stderr
    index = storage.read_json(f"{root}/clips/index.json")
    assert index["classes"] == ["apple", "berry", "cherry"] and "without_clips" not in index
    assert _indices(root) == {"apple": 0, "berry": 1, "cherry": 2}


@pytest.mark.e2e
def test_the_published_layouts_work_as_they_are(job, tmp_path: Path):
    """Small replicas of UCF-101 and Sky Time-lapse, with only the preset's name."""
    for label in ("YoYo", "Archery"):
        (tmp_path / "UCF-101" / label).mkdir(parents=True)
        for clip in ("g01_c01", "g01_c02", "g07_c01"):
            path = tmp_path / f"UCF-101/{label}/v_{label}_{clip}.avi"
            write(path, "mpeg4", count=20, bf="1")
    (tmp_path / "ucfTrainTestlist").mkdir()
    listed = "".join(f"{label}/v_{label}_g07_c01.avi\r\n" for label in ("Archery", "YoYo"))
    (tmp_path / "ucfTrainTestlist/testlist01.txt").write_text(listed)
    for clip in ("sky_train/a/a_1", "sky_train/b/b_1", "sky_test/c/c_1"):
        image_folder(tmp_path / "sky_timelapse" / clip, 20)

    for preset, folder, classes, counts in (
        ("ucf101", "UCF-101", ["Archery", "YoYo"], {"train": 4, "val": 2}),
        ("sky", "sky_timelapse", [], {"train": 2, "val": 1}),
    ):
        root = tmp_path / "root" / preset
        outcome = job("shard_videos", preset, "--videos", tmp_path / folder, "--root", root)
        assert outcome.status == 0, outcome.stderr
        index = storage.read_json(f"{root}/clips/index.json")
        assert (index["classes"], index["counts"]) == (classes, counts)
        rows = manifest.read(f"{root}/videos.parquet").to_pylist()
        assert {(row["status"], row["fps"], row["frames"]) for row in rows} == {("ok", 25.0, 20)}


@pytest.mark.e2e
@pytest.mark.slow
def test_near_duplicates_are_left_out_on_request(job, tmp_path: Path):
    folder, root = tmp_path / "videos", tmp_path / "root"
    folder.mkdir()
    for seed in range(5):
        made(folder / f"scene-{seed}.mp4", seed)
    made(folder / "zz-again.avi", 3, "mpeg4")
    flags = ("--videos", folder, "--root", root, "--val-fraction", 0, *FLAGS)
    assert job("shard_videos", *flags, "--filters.min-distance", 4).status == 0
    rows = {Path(r["uri"]).name: r for r in manifest.read(f"{root}/videos.parquet").to_pylist()}
    again = rows.pop("zz-again.avi")
    assert (again["status"], again["reason"], again["clips"]) == ("rejected", "near_duplicate", 0)
    assert again["detail"] == "of scene-3.mp4" and 0 <= again["score"] < 4
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len(list((root / "perceptual_hashes").iterdir())) == 2
    tars = {tar: tar.stat().st_mtime_ns for tar in (root / "clips").glob("*.tar")}
    assert "verified" in job("shard_videos", *flags, "--filters.min-distance", 4).stdout
    assert tars == {tar: tar.stat().st_mtime_ns for tar in tars}
