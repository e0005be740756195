"""Batches of work: samples in the proportions of real clips, keys of what features depend on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from pipelines.cluster.devices import Devices
from pipelines.evaluation.batches import (
    ClipRef,
    clip_batches,
    clips_to_show,
    precision,
    reconstruction_batches,
    requests_like,
    sample_batches,
    spread,
    to_show,
)
from pipelines.evaluation.features import FeatureSpec
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.settings import Evaluate
from pipelines.io import checksums
from pipelines.io.markers import Marker
from pipelines.sampling.worker import Request

CLASSES = ["a", "b", "c"]


def marker(name: str, sha256: str = "0") -> Marker:
    return Marker(name, sha256, 0, ["k"], ["v"], "spec", "made")


def test_samples_have_the_proportions_of_real_clips() -> None:
    index_N = np.array([0] * 60 + [1] * 30 + [2] * 30)
    fps_N = np.where(np.arange(120) % 3 == 0, 8.0, 16.0)
    mixed = np.random.default_rng(0).permutation(120)
    captions = [f"{label} at {fps}" for label, fps in zip(index_N, fps_N, strict=True)]
    told = [captions[i] for i in mixed]
    requests = requests_like(index_N[mixed], fps_N[mixed], told, CLASSES, 60, repeat=2)
    labels = Counter(request.label for request in requests)
    assert abs(labels["a"] - 30) <= 1 and abs(labels["b"] - 15) <= 1
    assert abs(Counter(request.fps for request in requests)[8.0] - 20) <= 2
    assert [request.number for request in requests] == list(range(120, 180))  # seeds of their own
    for request in requests:
        assert request.prompt == f"{CLASSES.index(request.label or '')} at {request.fps}"


def test_each_real_clip_has_a_sample_of_its_caption() -> None:
    captions = ["red", None, "blue", "green"]
    index_N, fps_N = np.array([1, 0, 0, 1]), np.full(4, 8.0)
    for repeat in range(2):
        requests = requests_like(index_N, fps_N, captions, CLASSES[:2], 4, repeat)
        asked = [(request.label, request.prompt) for request in requests]
        assert asked == [("a", None), ("a", "blue"), ("b", "red"), ("b", "green")]
    alone = requests_like(np.full(4, -1), fps_N, captions, [], 4, 0)
    assert [(r.label, r.prompt) for r in alone] == [(None, caption) for caption in captions]


def test_classes_take_turns_where_one_has_no_real_clip() -> None:
    index_N, fps_N = np.array([0, 1, 1, 1]), np.array([8.0, 8.0, 16.0, 16.0])
    requests = requests_like(index_N, fps_N, ["red", "blue", "green", None], CLASSES, 12, 0)
    assert Counter((request.label, request.fps) for request in requests) == {
        (label, fps): 2 for label in CLASSES for fps in (8.0, 16.0)
    }
    # And so do the captions of what there is of both.
    told = [(r.label, r.fps, r.prompt) for r in requests if r.prompt]
    once = [("a", 8.0, "red"), ("b", 8.0, "blue")]
    assert told == [*once, ("b", 16.0, "green"), *once]


def test_without_classes_none_is_asked_for() -> None:
    requests = requests_like(np.full(4, -1), np.full(4, 25.0), [None] * 4, [], 8, 0)
    assert {(request.label, request.fps) for request in requests} == {(None, 25.0)}


def test_a_batch_is_of_one_shard_and_keeps_its_positions() -> None:
    refs = [ClipRef("b", "v1", 0), ClipRef("a", "v2", 1), ClipRef("b", "v3", 2)]
    a, b = clip_batches("real", [marker("a"), marker("b")], refs, ["basis"])
    assert (a.marker and a.marker.name, a.indices) == ("a", (1,))
    assert (b.indices, b.refs) == ((0, 2), (refs[0], refs[2]))


def test_keys_depend_on_data_detector_and_choice() -> None:
    def key(sha256: str = "0", basis: str = "detector", ordinal: int = 0) -> str:
        refs = [ClipRef("a", "v", ordinal)]
        return clip_batches("real", [marker("a", sha256)], refs, [basis])[0].key

    assert key() == key()
    assert len({key(), key(sha256="1"), key(basis="other"), key(ordinal=1)}) == 4


CHANGES: dict[str, tuple[Any, bool]] = {
    "root": ("elsewhere", False),
    "num_workers": (3, False),
    "overwrite": (True, False),
    "dry_run": (True, False),
    "device": ("cpu", False),
    "gpus_per_worker": (0.5, False),
    "ldm": ("the same under another name", False),
    "steps": (7, True),
    "default_steps": (7, True),
    "sampler": ("euler", True),
    "guidance": (3.0, True),
    "guidance_interval": ((0.1, 0.9), True),
    "batch_size": (5, True),
    "seed": (1, True),
    "compile": ("on", False),
    "protocol": ("tats", False),
    "detector": ("i3d", False),
    "classifier": ("c3d", False),
    "lpips": ("lpips.pt", False),
    "metrics": ("fvd,psnr", False),
    "num_samples": (9, False),
    "num_real": (9, False),
    "repeats": (9, False),
    "real_split": ("all", False),
    "real_draw": ("videos", False),
    "num_train": (9, False),
    "detector_steps": (9, False),
    "fps": ("8", False),
    "sweep": ("guidance", False),
}
"""Of every setting another value, and whether the same request is another video with it.

Detectors and classifiers are in the fingerprint of what is extracted, by their content."""
REQUESTS = [Request("a", number, 8.0) for number in range(4)]
SPEC = FeatureSpec(None, None, None, None, False, False, False)


def keys(
    config: Evaluate,
    model: str = "model",
    tokenizer: str = "tokenizer",
    devices: Any = None,
    requests: Sequence[Request] = REQUESTS,
) -> dict[str, list[str]]:
    """The keys of the same four samples, and of the same two reconstructions."""
    bundle = {"classes": CLASSES}
    config = config.for_model(bundle)
    inputs = Inputs(config, bundle, {}, model, tokenizer, False, None, None, None)
    samples = sample_batches(inputs, SPEC, requests, 0, devices or Devices())
    refs = [ClipRef("a", "v", 0), ClipRef("a", "v", 1)]
    made = reconstruction_batches(inputs, SPEC, [marker("a")], refs, {0, 1})
    return {"samples": [b.key for b in samples], "reconstructed": [b.key for b in made]}


def test_the_table_of_changes_holds_every_setting() -> None:
    assert CHANGES.keys() == {field.name for field in fields(Evaluate)}


@pytest.mark.parametrize("name", CHANGES)
def test_samples_are_kept_under_all_settings_that_change_them(name: str) -> None:
    value, changes_samples = CHANGES[name]
    before, after = keys(Evaluate()), keys(Evaluate(**{name: value}))
    assert getattr(Evaluate(), name) != value
    assert (before["samples"] != after["samples"]) == changes_samples
    assert before["reconstructed"] == after["reconstructed"]  # the tokenizer alone makes them


def test_samples_are_kept_under_the_files_and_the_precision_that_made_them() -> None:
    before = keys(Evaluate())
    assert keys(Evaluate(), model="other")["samples"] != before["samples"]
    assert keys(Evaluate(), tokenizer="other")["reconstructed"] != before["reconstructed"]
    cards = [Devices("cuda", cards=(card,)) for card in ("A100", "V100")]
    found = {keys(Evaluate(), devices=each)["samples"][0] for each in (Devices(), *cards)}
    assert len(found) == 3


def test_samples_are_kept_under_what_they_were_told() -> None:
    captions = ["red"] * 4, ["blue"] * 4, ["red", None, None, None]
    found = [keys(Evaluate())["samples"]]
    for each in captions:
        told = [replace(r, prompt=text) for r, text in zip(REQUESTS, each, strict=True)]
        found.append(keys(Evaluate(), requests=told)["samples"])
    assert len({tuple(each) for each in found}) == 4


def test_keys_without_captions_are_those_of_before_there_were_any() -> None:
    """Features that were kept are found again; the shown ones are part of the key."""
    (first,) = keys(Evaluate())["samples"]
    inputs = Inputs(
        Evaluate().for_model({}), {"classes": CLASSES}, {}, "model", "", False, None, None, None
    )
    basis = [SPEC.fingerprint, "samples", "model", inputs.config.sampled_by(), precision(Devices())]
    before = checksums.fingerprint([*basis, [["a", number, 8.0] for number in range(4)]])
    assert first == checksums.fingerprint([before, (0, 1, 2, 3)])


def test_real_clips_are_shown_beside_samples_of_their_captions() -> None:
    index_N, fps_N = np.array([0, 0, 1, 1, 0]), np.array([8.0, 8.0, 8.0, 16.0, 8.0])
    captions: list[str | None] = ["red", "blue", "red", None, "blue"]

    def shown(*asked: tuple[str | None, float, str | None]) -> set[int]:
        requests = [
            Request(label, n, fps, prompt=text) for n, (label, fps, text) in enumerate(asked)
        ]
        return clips_to_show(index_N, fps_N, captions, CLASSES[:2], requests)

    assert shown(("a", 8.0, "blue"), ("b", 16.0, None)) == {1, 3}
    assert shown(*[("a", 8.0, "blue")] * 3) == {1, 4}
    assert shown(("b", 8.0, "red"), ("c", 8.0, "red"), ("a", 8.0, None)) == {2}
    # Otherwise one of each class, at the rate of the sample.
    captions = [None] * 5
    assert shown(("a", 8.0, None), ("b", 16.0, None)) == {0, 3}


def test_positions_are_spread_evenly() -> None:
    assert spread(101, 5) == [0, 25, 50, 75, 100]
    assert spread(3, 10) == [0, 1, 2]


def test_one_of_each_class_is_shown_and_rates_take_turns() -> None:
    requests = [
        Request(label, number, fps)
        for label in CLASSES
        for number, fps in enumerate((8.0, 8.0, 16.0))
    ]
    assert [(r.label, r.number, r.fps) for r in to_show(requests)] == [
        ("a", 0, 8.0), ("b", 2, 16.0), ("c", 0, 8.0)
    ]  # fmt: skip
    only_slow = [request for request in requests if request.fps == 8.0 or request.label == "a"]
    assert [request.number for request in to_show(only_slow)] == [0, 0, 0]
    unlabelled = [Request(None, number, 8.0 if number < 90 else 25.0) for number in range(100)]
    assert [request.number for request in to_show(unlabelled)] == list(range(0, 100, 11))
