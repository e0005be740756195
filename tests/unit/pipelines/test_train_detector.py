"""What training a detector refuses; tests/e2e trains one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.evaluation.settings import TrainDetector
from pipelines.io import storage
from pipelines.io.markers import Marker
from pipelines.train_detector import (
    JUDGED_CLIPS,
    JUDGED_SHARDS,
    judged_on,
    refuse_missing,
    train_detector,
)
from vqvdm.errors import UserError
from vqvdm.metrics.clip_classifier import ClipClassifier, train_clip_classifier


def marker(split: str, labels: dict[str, int]) -> Marker:
    rows = [
        {"source": {"label": label}, "account": {"clips": clips}} for label, clips in labels.items()
    ]
    return Marker(f"{split}-000000", "0", 0, [], [], "spec", "made", {"videos": rows})


def index(root: Path, **changes: Any) -> str:
    found = {"classes": ["a", "b"], "counts": {"train": 4}, "fingerprint": "f", "shards": []}
    storage.publish_json(found | changes, f"{root}/clips/index.json")
    return str(root)


def test_every_class_needs_training_clips() -> None:
    shards = [marker("train", {"a": 3, "b": 0}), marker("val", {"b": 2})]
    with pytest.raises(UserError, match="class 'b' has no training clip"):
        refuse_missing(["a", "b"], shards)
    refuse_missing(["a", "b"], [*shards, marker("train", {"b": 1})])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": []}, "has no classes"),
        ({"classes": ["a"]}, "has 1 classes"),
        ({"counts": {"val": 3}}, "no training clips"),
    ],
)
def test_unlabelled_clips_are_refused(tmp_path: Path, changes: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        train_detector(TrainDetector(root=index(tmp_path, **changes)))


def test_another_detector_of_that_name_is_not_replaced(tmp_path: Path) -> None:
    root = index(tmp_path)
    storage.publish_json({"recipe": "other"}, f"{root}/detectors/own/config.json")
    for dry_run in (False, True):
        with pytest.raises(UserError, match="--overwrite"):
            train_detector(TrainDetector(root=root, dry_run=dry_run))


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    root = index(tmp_path)
    assert "600 steps on 4 clips" in train_detector(TrainDetector(root=root, dry_run=True))
    assert len(storage.walk(root)) == 1


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch_size": 0}, {"size": 8}])
def test_senseless_settings(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="must be at least"):
        TrainDetector(**wrong).check()  # type: ignore[arg-type]


def test_one_clip_that_leaves_one_value_is_refused(tmp_path: Path) -> None:
    """Batch normalisation averages over the values of a channel."""
    root = index(tmp_path, spec={"frames": 4})
    for dry_run in (False, True):
        config = TrainDetector(root=root, batch_size=1, size=16, dry_run=dry_run)
        with pytest.raises(UserError, match=r"--batch-size 1 at --size 16 .*--batch-size 2"):
            train_detector(config)
    assert "600 steps" in train_detector(TrainDetector(root=root, batch_size=1, dry_run=True))


@pytest.mark.parametrize(("frames", "size"), [(8, 16), (9, 16), (4, 17), (4, 32)])
def test_the_positions_of_the_last_layer_are_those_of_the_net(frames: int, size: int) -> None:
    net = ClipClassifier(2, size)
    shape = net.eval().body(torch.zeros(1, 3, frames, size, size)).shape
    assert shape[2:].numel() == ClipClassifier.positions(frames, size)
    if ClipClassifier.positions(frames, size) > 1:
        videos = torch.zeros(1, 3, frames, size, size, dtype=torch.uint8)
        batches = iter([(videos, torch.zeros(1, dtype=torch.long))] * 2)
        assert len(list(train_clip_classifier(net, batches, 2, 1e-3, 0))) == 2


def test_accuracy_is_of_few_shards_spread_over_all() -> None:
    def shards(count: int, clips: int) -> list[Marker]:
        keys = [f"{n}" for n in range(clips)]
        return [Marker(f"train-{n:06d}", "0", 0, keys, [], "spec", "made") for n in range(count)]

    many = shards(1000, 100)
    chosen = judged_on(many)
    assert len(chosen) == JUDGED_SHARDS and chosen[0] == many[0] and chosen[-1] == many[-1]
    small = judged_on(shards(1000, 10))
    assert JUDGED_CLIPS <= sum(len(each.keys) for each in small) < JUDGED_CLIPS + 20
    assert judged_on(many[:5]) == many[:5] and judged_on(few := shards(50, 3)) == few
