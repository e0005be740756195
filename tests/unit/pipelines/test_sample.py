"""Requests to the sampler, and checks of its videos."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.io import storage
from pipelines.sample import Request, sample, verify_samples, wanted_classes
from pipelines.sampling.settings import Sample
from vqvdm.errors import UserError

DIGITS = ["zero", "one", "seven"]


def test_wanted_classes_are_all_or_those_named() -> None:
    assert wanted_classes("all", DIGITS) == DIGITS
    assert wanted_classes("seven, zero", DIGITS) == ["seven", "zero"]
    assert wanted_classes("all", []) == [None]


def test_a_class_named_twice_is_sampled_once() -> None:
    assert wanted_classes("zero,one,zero", DIGITS) == ["zero", "one"]


def test_an_unknown_class_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="'sevn': did you mean 'seven'"):
        wanted_classes("zero,sevn", DIGITS)
    with pytest.raises(UserError, match="unconditional"):
        wanted_classes("zero", [])


def test_missing_and_changed_samples_are_named(tmp_path: Path) -> None:
    rows = []
    for number in range(3):
        content = str(number).encode()
        file = Request("zero", number, 8.0).file
        storage.publish_bytes(content, str(tmp_path / file))
        rows.append({"file": file, "sha256": hashlib.sha256(content).hexdigest()})
    verify_samples(str(tmp_path), rows)
    (tmp_path / "zero/00002.mp4").unlink()
    with pytest.raises(UserError, match=r"zero/00002\.mp4 is missing.*--overwrite"):
        verify_samples(str(tmp_path), rows)
    (tmp_path / "zero/00001.mp4").write_bytes(b"2")
    with pytest.raises(UserError, match=r"zero/00001\.mp4 .* changed"):
        verify_samples(str(tmp_path), rows)


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    bundle = {"classes": DIGITS, "fingerprint": "abc"}
    storage.publish_json(bundle, str(tmp_path / "ldm/base/config.json"))
    config = Sample(root=str(tmp_path), num_per_class=5, classes="zero,one", dry_run=True)
    plan = sample(config)
    assert "10 videos of 2 classes" in plan
    assert [path.name for path in tmp_path.iterdir()] == ["ldm"]
    with pytest.raises(UserError, match="num-per-class"):
        sample(replace(config, num_per_class=0))
    with pytest.raises(UserError, match=r"ldm/other/config\.json.*train_ldm"):
        sample(replace(config, ldm="other"))
