"""Requests: batches of one frame rate, and a seed for each video."""

import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from pipelines.cluster.devices import Devices, Kind
from pipelines.evaluation.settings import Evaluate
from pipelines.io import lock
from pipelines.sampling import worker as page
from pipelines.sampling.settings import Sample
from pipelines.sampling.worker import (
    COMPILE_FROM,
    PublishingWorker,
    Request,
    SampleBatch,
    SamplingWorker,
    begun_in,
    in_batches,
    note_precision,
)
from pipelines.settings import Switch
from pipelines.video import Frames
from tests.tiny import write_bundle
from vqvdm.errors import UserError
from vqvdm.text_encoder import TextEncoder, Texts

DIGITS = ["zero", "one", "seven"]


def requests(*rates: float) -> list[Request]:
    return [Request("zero", number, fps) for number, fps in enumerate(rates)]


def test_batches_hold_one_frame_rate_and_no_more_than_asked() -> None:
    wanted = requests(8, 16, 8, 8, 16, 8, 8)
    groups = in_batches(wanted, 2)
    assert [len(group) for group in groups] == [2, 2, 1, 2]
    assert all(len({request.fps for request in group}) == 1 for group in groups)
    together = [request for group in groups for request in group]
    assert sorted(together, key=lambda r: r.number) == wanted
    assert in_batches([], 2) == []


def test_every_video_has_a_seed_of_its_own() -> None:
    wanted = [Request(label, k, 8.0) for label in [*DIGITS, None] for k in range(3)]
    seeds = [request.seed(base) for base in (0, 1) for request in wanted]
    assert len(set(seeds)) == len(seeds)


def test_a_seed_does_not_depend_on_other_requests() -> None:
    request = Request("seven", 2, 16.0)
    assert request.seed(4) == Request("seven", 2, 16.0).seed(4)
    assert request.seed(4) == replace(request, fps=8.0).seed(4)  # the same motion, slower
    number = int.from_bytes(hashlib.sha256(b"seven").digest()[:8], "big")
    assert request.seed(4) == (4, number, 2)  # in every process, on every machine


def test_files_are_sorted_by_class() -> None:
    assert Request("zero", 12, 8.0).file == "zero/00012.mp4"
    assert Request(None, 0, 8.0).file == "unlabelled/00000.mp4"


@pytest.mark.parametrize(
    ("kind", "batches", "compile", "expected"),
    [
        ("cuda", 2 * COMPILE_FROM, "auto", True),
        ("cuda", 2 * COMPILE_FROM - 1, "auto", False),  # too few for each of two workers
        ("cpu", 1000, "auto", False),
        ("cpu", 1, "on", True),
        ("cuda", 1000, "off", False),
    ],
)
def test_compiling_is_for_gpus_and_many_batches(
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    batches: int,
    compile: Switch,
    expected: bool,
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setenv("CC", "cc")
    devices = Devices(kind, workers=2)
    worker = SamplingWorker("ldm", Sample(compile=compile), "auto", devices, batches)
    assert worker._compiled == expected


def test_a_compiled_net_sees_batches_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    class Made:
        sizes: ClassVar[list[int]] = []

        def sample(
            self, classes: list[str], fps: float, prompts: list, seed: list, options: object
        ) -> Frames:
            self.sizes.append(len(classes))
            assert len(seed) == len(prompts) == len(classes)
            return np.array([number for _, _, number in seed])

    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    for compile, sizes in (("on", [3, 3]), ("off", [3, 2])):
        config = Sample(batch_size=3, compile=compile)  # type: ignore[arg-type]
        worker = SamplingWorker("ldm", config, "auto", Devices())
        worker.generator = Made()  # type: ignore[assignment]
        Made.sizes.clear()
        made = [worker.videos(group) for group in in_batches(requests(8, 8, 8, 8, 8), 3)]
        assert Made.sizes == sizes
        assert np.concatenate(made).tolist() == [0, 1, 2, 3, 4]


def test_prompts_are_read_batch_by_batch_by_one_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    write_bundle(tmp_path / "base", size=16, captioned=True)
    made: list[Any] = []
    read: list[list[str | None]] = []

    class Encoder(TextEncoder):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

        def __call__(self, texts: Texts) -> torch.Tensor:
            read.append(list(texts))
            return super().__call__(texts)

    monkeypatch.setattr(page, "TextEncoder", Encoder)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    config = Sample(steps=1, batch_size=2)
    worker = SamplingWorker(str(tmp_path / "base"), config, "auto", Devices(), prompted=True)
    texts = ["a red ball", "a blue ball", "a red ball", None]
    wanted = [Request("zero", n, 8.0, prompt=text) for n, text in enumerate(texts)]
    videos = [worker.videos(group) for group in in_batches(wanted, 2)]
    assert read == [texts[:2], texts[2:]] and len(made) == 1
    expected = worker.generator.sample(
        ["zero"] * 2, 8.0, prompts=texts[:2], seed=[r.seed(0) for r in wanted[:2]], steps=1
    )
    assert (videos[0] == expected).all()
    without = SamplingWorker(str(tmp_path / "base"), config, "auto", Devices())
    assert (without.videos([replace(r, prompt=None) for r in wanted[:2]]) != expected).any()
    assert len(made) == 1


def test_compiling_is_no_part_of_the_recipe() -> None:
    assert Sample(compile="on").recipe() == Sample(compile="off").recipe()
    assert Evaluate(compile="on").recipe() == Evaluate().recipe()


def test_videos_of_a_batch_are_encoded_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=30)  # one after the other would wait for ever

    def encode(video: Frames, fps: float) -> bytes:
        both.wait()
        return bytes(video)

    monkeypatch.setattr(page, "encode_h264", encode)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    wanted = requests(8, 8, 8, 8)
    batch = SampleBatch(str(tmp_path), "recipe", tuple(wanted))
    worker = PublishingWorker("ldm", Sample(), "auto", Devices(), [batch])
    monkeypatch.setattr(worker, "videos", lambda _: np.arange(4, dtype=np.uint8)[:, None])
    rows = json.loads(worker({"batch": 0})["rows"])
    assert [row["file"] for row in rows] == [request.file for request in wanted]
    for number, row in enumerate(rows):
        content = (tmp_path / row["file"]).read_bytes()
        assert content == bytes([number])
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
    assert batch.finished() == rows


def test_a_distilled_model_has_its_own_number_of_steps() -> None:
    config, fast = Sample(default_steps=12), {"sampling_steps": 2}
    assert [config.for_model(bundle).steps for bundle in ({}, fast)] == [12, 2]
    asked = replace(config, steps=4)
    assert [asked.for_model(bundle).options.steps for bundle in ({}, fast)] == [4, 4]
    # What is recorded of a run is the number that was taken, wherever it came from.
    assert config.for_model({}).recipe() == replace(config, steps=12, fps=16.0).recipe()
    assert "default_steps" not in config.recipe()
    object.__setattr__(config, "preset", "sky")
    assert config.for_model(fast).preset == "sky"


def test_what_is_noted_of_a_precision_holds_for_one_recipe(tmp_path: Path) -> None:
    batch = SampleBatch(str(tmp_path), "recipe", ())
    assert begun_in(batch) is None
    note_precision(batch, "fp16")
    assert begun_in(batch) == "fp16" and begun_in(replace(batch, recipe="other")) is None


def out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("Tried to allocate 2.50 GiB.")


def test_a_gpu_that_is_too_small_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)

    def said(config: Sample | Evaluate, **devices: Any) -> str:
        worker = SamplingWorker("ldm", config, "auto", Devices("cuda", **devices))
        worker.generator = SimpleNamespace(sample=out_of_memory)  # type: ignore[assignment]
        with pytest.raises(UserError, match=r"2\.50 GiB more were asked for: ") as found:
            worker.videos([Request("zero", 0, 8.0)])
        return str(found.value).rsplit(": ", 1)[1]

    assert said(Sample(batch_size=16)) == "pass --batch-size 8"
    assert said(Sample(batch_size=1)) == "pass a smaller --size"
    halves = {"gpus_per_worker": 0.5}
    assert said(Sample(batch_size=3), **halves) == "pass --batch-size 1, --gpus-per-worker 1"
    assert said(Evaluate(batch_size=1)) == "take a GPU with more"


def test_a_worker_that_does_not_see_the_lock_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SEEN_S", 0.0)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    batch = SampleBatch(str(tmp_path), "recipe", (Request("zero", 0, 8.0),), owner="a")
    worker = PublishingWorker("ldm", Sample(), "auto", Devices(), [batch])
    with pytest.raises(UserError, match="root is not shared between the nodes"):
        worker({"batch": 0})
