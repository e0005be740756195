"""What training a detector refuses; tests/e2e trains one."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation.settings import TrainDetector
from pipelines.io import storage
from pipelines.io.markers import Marker
from pipelines.train_detector import refuse_missing, train_detector
from vqvdm.errors import UserError


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
