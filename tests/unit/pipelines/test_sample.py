"""Requests to the sampler, and checks of its videos."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import sample as page
from pipelines.cluster.devices import Devices
from pipelines.io import lock, storage
from pipelines.sample import Request, grid_of, refuse_other, sample, verify_samples, wanted_classes
from pipelines.sampling.settings import Sample
from pipelines.sampling.worker import PublishingWorker, SampleBatch
from pipelines.video.encoder import encode_h264
from pipelines.video.grid import CAPTION
from tests.tiny import write_bundle
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


def test_a_class_that_nothing_is_near_to_is_answered_with_those_that_exist() -> None:
    with pytest.raises(UserError) as caught:
        wanted_classes("cat", ["parrot", "boat"])
    assert str(caught.value) == "unknown class 'cat': Classes: parrot, boat"
    with pytest.raises(UserError, match=r"c00, .*c23 and 77 more$"):
        wanted_classes("cat", [f"c{i:02}" for i in range(101)])


def test_samples_of_other_settings_are_told_apart(tmp_path: Path) -> None:
    folder, before = str(tmp_path), Sample(steps=20, guidance=2.0).recipe()
    storage.publish_json({"settings": before, "ldm": "a"}, f"{folder}/settings.json")
    words = r"\(steps 20 → 12\): pass --overwrite to replace it, or another --output"
    with pytest.raises(UserError, match=words):
        refuse_other(Sample(steps=12), folder, "abc", "def", "a")
    with pytest.raises(UserError, match=r"\(base has been trained anew\)"):
        refuse_other(Sample(steps=20), folder, "abc", "def", "b")
    (tmp_path / "settings.json").unlink()  # as samples of earlier versions
    with pytest.raises(UserError, match="other settings, or from other input"):
        refuse_other(Sample(steps=12), folder, "abc", "def", "a")


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


class InThisProcess:
    """Makes batches one after the other, and may be killed after some of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[int] = []
        self.killed_after: int | None = None
        monkeypatch.setattr(page, "sampling_graph", self)

    def __call__(self, config: Sample, batches: Sequence[SampleBatch]) -> InThisProcess:
        bundle = config.workspace.ldm(config.ldm)
        self.worker = PublishingWorker(bundle, config, "fp32", Devices(), batches)
        return self

    def iter_rows(self) -> Iterator[dict]:
        for number, batch in enumerate(self.worker.batches):
            if len(self.made) == self.killed_after:
                raise KeyboardInterrupt
            self.made += [request.number for request in batch.requests]
            yield self.worker({"batch": number})


@pytest.fixture
def quick_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    write_bundle(tmp_path / "ldm/base", classes=["a/b", ".."])
    return Sample(root=str(tmp_path), ldm="base", num_per_class=6, steps=1, batch_size=2, fps=8.0)


def test_a_job_that_was_killed_goes_on_where_it_stopped(
    quick_sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "samples/base"
    graph = InThisProcess(monkeypatch)
    assert sample(replace(quick_sample, output="undisturbed")).startswith("12 videos")
    graph.made, graph.killed_after = [], 4
    with pytest.raises(KeyboardInterrupt):
        sample(quick_sample)
    graph.killed_after = None
    changed = folder / "a%2Fb" / "00001.mp4"
    changed.write_bytes(b"another")
    graph.made = []
    sample(quick_sample)
    # The batch of the changed video, and the four that were not made yet.
    assert len(graph.made) == 2 + 8
    undisturbed = tmp_path / "samples/undisturbed"
    names = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    assert names == sorted(
        ["grid.gif", "samples.jsonl", "settings.json"]
        + [f"{label}/{number:05d}.mp4" for label in ("a%2Fb", "%2E%2E") for number in range(6)]
    )
    for name in names:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    graph.made = []
    assert "there already, verified" in sample(quick_sample) and not graph.made


def test_the_grid_has_a_limit(tmp_path: Path) -> None:
    video = encode_h264(np.zeros((2, 8, 8, 3), np.uint8), 8.0)
    requests = [Request(f"c{label:02d}", number, 8.0) for label in range(50) for number in range(9)]
    for request in requests:
        storage.publish_bytes(video, str(tmp_path / request.file))
    with Image.open(io.BytesIO(grid_of(str(tmp_path), requests))) as picture:
        assert picture.size == (8 * 8, 13 * (CAPTION + 8))
