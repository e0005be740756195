"""Batches of work: samples in the proportions of real clips, keys of what features depend on."""

from collections import Counter

import numpy as np

from pipelines.evaluation.batches import ClipRef, clip_batches, requests_like, spread, to_show
from pipelines.io.markers import Marker
from pipelines.sampling.worker import Request

CLASSES = ["a", "b", "c"]


def marker(name: str, sha256: str = "0") -> Marker:
    return Marker(name, sha256, 0, ["k"], ["v"], "spec", "made")


def test_samples_have_the_proportions_of_real_clips() -> None:
    index_N = np.array([0] * 60 + [1] * 30 + [2] * 30)
    fps_N = np.where(np.arange(120) % 3 == 0, 8.0, 16.0)
    mixed = np.random.default_rng(0).permutation(120)
    requests = requests_like(index_N[mixed], fps_N[mixed], CLASSES, 60, repeat=2)
    labels = Counter(request.label for request in requests)
    assert abs(labels["a"] - 30) <= 1 and abs(labels["b"] - 15) <= 1
    assert abs(Counter(request.fps for request in requests)[8.0] - 20) <= 2
    assert [request.number for request in requests] == list(range(120, 180))  # seeds of their own


def test_classes_take_turns_where_one_has_no_real_clip() -> None:
    requests = requests_like(np.array([0, 1, 1]), np.array([8.0, 8.0, 16.0]), CLASSES, 12, 0)
    assert Counter((request.label, request.fps) for request in requests) == {
        (label, fps): 2 for label in CLASSES for fps in (8.0, 16.0)
    }


def test_without_classes_none_is_asked_for() -> None:
    requests = requests_like(np.full(4, -1), np.full(4, 25.0), [], 8, 0)
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
