"""A root is read from end to end, damage and staleness included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.inspect_data import inspect_data
from pipelines.inspection import pixels
from pipelines.inspection.pixels import look_at
from pipelines.inspection.settings import InspectData
from pipelines.inspection.videos import bars
from pipelines.io import storage
from pipelines.io.markers import content_fingerprint, read_marker
from pipelines.io.shards import ShardWriter
from pipelines.io.workspace import Workspace
from pipelines.sharding import report
from pipelines.sharding.manifest import Account, ManifestWriter, Source
from pipelines.sharding.marker_cache import Shard
from pipelines.video.lossless import encode_lossless
from vqvdm.errors import IncompleteError, UserError


def source(name: str, label: str, split: str) -> Source:
    return Source(f"{label}/{name}.mp4", f"{label}/{name}.mp4", 1, None, None, label, split)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two shards of two classes, and a video that was lost."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    root, rng = str(tmp_path / "root"), np.random.default_rng(0)
    space = Workspace(root)
    account = Account("ok", None, 12, 10.0, 25.0, 320, 240, "h264")
    lost = Account("rejected", "empty", 0)
    (tmp_path / "account").mkdir()
    manifest, markers = ManifestWriter(tmp_path / "account"), []
    for split in ("train", "val"):
        videos = [(source(f"{split}{n}", label, split), account) for n, label in enumerate("ab")]
        videos += [(source("lost", "a", split), lost)] if split == "train" else []
        name = f"{split}-000000"
        manifest.add(name, videos)
        with ShardWriter(space.clips, name) as writer:
            for number in range(24):
                frames = rng.integers(0, 256, (16, 64, 64, 3), np.uint8)
                metadata = json.dumps({"label": "ab"[number % 2], "fps": 8.0}).encode()
                members = {"mkv": encode_lossless(frames, 8), "json": metadata}
                writer.add(f"{split}{number:02d}", members)
            markers.append(writer.publish([], "spec", "made", {}))
    manifest.publish(space.manifest)
    index: dict[str, Any] = {
        "classes": ["a", "b"],
        "counts": {"train": 24, "val": 24},
        "fingerprint": content_fingerprint(markers),
        "shards": [marker.name for marker in markers],
        "spec": {"frames": 16, "size": 64, "rates": [8.0]},
    }
    storage.publish_json(index, f"{space.clips}/index.json")
    return root


def findings(root: str) -> list[str]:
    found = storage.read_json(f"{root}/inspection/findings.json")["findings"]
    return [f"{each['kind']} {each['what']}" for each in found]


def test_a_root_is_summed_up(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    figure = inspect_data(InspectData(root=root, samples=8))
    assert figure.startswith("24 clips to train on, 24 held out of 2 classes; ")
    assert figure.endswith(f"{root}/inspection/report.html")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["a", "2", "12", "12"] in rows and ["all", "5", "24", "24"] in rows
    assert findings(root) == [
        "odd 1 of 5 videos are rejected, empty (20.0%)",
        "note 24 clips to train on are few: a generator mostly learns them by heart",
    ]
    page = storage.read_bytes(f"{root}/inspection/report.html").decode()
    assert page.count("data:image/jpeg;base64,") == 2
    assert "128 to 256 px" in page and "10 to 30 s" in page and "25 to 30 fps" in page


@pytest.mark.long
def test_what_is_missing_or_cut_off_is_wrong(root: str) -> None:
    clips = Path(root, "clips")
    (clips / "val-000000.tar").unlink()
    assert not look_at(str(clips), {"shards": ["train-000001"]}, 8).looks
    data = (clips / "train-000000.tar").read_bytes()
    (clips / "train-000000.tar").write_bytes(data[:-1024])
    with pytest.raises(IncompleteError, match="2 wrong"):
        inspect_data(InspectData(root=root, strict=True))
    wrong = [line for line in findings(root) if line.startswith("wrong")]
    assert wrong == [
        f"wrong {clips}/val-000000.tar is missing",
        f"wrong {clips}/train-000000.tar has {len(data) - 1024} bytes instead of {len(data)}",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"counts": {"train": 12}},
            "it tells of 24 + 24 clips for training + validation instead of 12 + 0",
        ),
        ({"classes": ["a"]}, "these have no class b"),
    ],
)
def test_an_account_that_is_newer_than_the_index_is_wrong(
    root: str, changes: dict[str, Any], words: str
) -> None:
    """A job that was killed, or ended by --strict, has published the account and no index."""
    uri = f"{root}/clips/index.json"
    storage.publish_json(storage.read_json(uri) | changes, uri)
    inspect_data(InspectData(root=root, samples=2))
    [found, *others] = storage.read_json(f"{root}/inspection/findings.json")["findings"]
    assert (found["kind"], found["what"]) == (
        "wrong", f"videos.parquet is not of the clips that clips/index.json lists: {words}"
    )  # fmt: skip
    assert found["cure"].startswith("run jobs/shard_videos.py again")
    assert all(each["kind"] != "wrong" for each in others)


def test_clips_that_are_larger_than_what_is_read_of_a_shard(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16 frames at 512×512 some are; one of each shard is looked at then."""
    monkeypatch.setattr(pixels, "PEEK_BYTES", 2000)
    looked = look_at(f"{root}/clips", storage.read_json(f"{root}/clips/index.json"), 8)
    assert len(looked.looks) == 1
    found = [shard_of(root, "train-000000")]
    monkeypatch.setattr(report, "PEEK_BYTES", 2000)
    assert report.contact_sheet(f"{root}/clips", found)


def shard_of(root: str, name: str) -> Shard:
    marker = read_marker(f"{root}/clips", name)
    assert marker
    return Shard(name, marker.sha256, len(marker.keys), "", None, (0, None), (0, None))


def test_what_belongs_to_other_clips_is_told(root: str) -> None:
    now = storage.read_json(f"{root}/clips/index.json")["fingerprint"]
    latents = {"clips": now, "fingerprint": "l", "std": [1.0, 0.001], "mean": [0.0, 0.0]}
    storage.publish_json(latents, f"{root}/latents/base/index.json")
    storage.publish_json(latents | {"clips": "old", "std": [1.0]}, f"{root}/latents/b/index.json")
    storage.publish_json({"inputs": {"clips": now}}, f"{root}/vqgan/base/config.json")
    storage.publish_json({"inputs": {"clips": "old"}}, f"{root}/vqgan/b/config.json")
    flow, student = ({"objective": {"name": name}} for name in ("flow", "average_velocity"))
    storage.publish_json(flow | {"inputs": {"latents": "l"}}, f"{root}/ldm/base/config.json")
    storage.publish_json(student | {"inputs": {"latents": "old"}}, f"{root}/ldm/b/config.json")
    storage.publish_json(flow | {"inputs": {"clips": now}}, f"{root}/ldm/pixels/config.json")
    inspect_data(InspectData(root=root))
    told = [line for line in findings(root) if "/" in line.split()[1]]
    assert sorted(told) == [
        "note ldm/b was trained on other latents than are there now",
        "note vqgan/b was trained on other clips than are there now",
        "odd latents/b was made from other clips than are there now",
        "odd latents/base: channel 1 hardly varies (0.001 of 1)",
    ]
    cures = {
        each["what"].split()[0]: each["cure"].split(",")[0]
        for each in storage.read_json(f"{root}/inspection/findings.json")["findings"]
    }
    assert cures["ldm/b"] == "jobs/distill_ldm.py --name b --overwrite"
    assert cures["vqgan/b"] == "jobs/train_vqgan.py --name b --overwrite"
    assert cures["latents/b"] == "jobs/encode_latents.py --vqgan b --overwrite"


def test_mistakes_and_dry_runs_write_nothing(root: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run jobs/shard_videos\.py"):
        inspect_data(InspectData(root=str(tmp_path / "other")))
    with pytest.raises(UserError, match="--samples must be at least 1"):
        inspect_data(InspectData(root=root, samples=0))
    assert "would look at 256 clips" in inspect_data(InspectData(root=root, dry_run=True))
    assert not Path(root, "inspection").exists()


def test_bars_count_each_value_once() -> None:
    values = np.array([0.5, 1.0, 1.5, 9.0, np.nan])
    assert bars(values, (1.0, 2.0), "s") == [("below 1 s", 1), ("1 to 2 s", 2), ("2 s and more", 1)]
