"""Clips are read in the order in which they were drawn; samples show what they were asked for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.cluster.devices import Devices
from pipelines.evaluation import worker
from pipelines.evaluation.batches import Batch, ClipRef, sample_batches
from pipelines.evaluation.features import FeatureSpec, unpack
from pipelines.evaluation.frame_classifier import FrameClassifier
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.real_clips import Drawn
from pipelines.evaluation.settings import Evaluate
from pipelines.evaluation.thumbnails import thumbnails
from pipelines.evaluation.worker import (
    FeatureWorker,
    StoredClip,
    frame_classifier_state,
    read_clips,
)
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardWriter
from pipelines.sampling.worker import Request
from pipelines.sharding import manifest
from pipelines.sharding.clips_of_videos import keys_of_parts
from pipelines.sharding.manifest import Account, Source
from pipelines.video import Frames
from tests.tiny import write_bundle
from vqvdm.checkpoint import load_config
from vqvdm.errors import UserError
from vqvdm.generator import VideoGenerator


def part(path: str, start_s: float, end_s: float) -> Source:
    return Source(path, f"/{path}", 1, None, 1, None, "train", start_s, end_s)


X, Y = (Source(path, f"/{path}", 1, None, 1, None, "train") for path in ("a/x.mp4", "b/y.mp4"))
ALONE = part("a/alone.mp4", 1.0, 3.0)
FIRST, SECOND = part("a/both.mp4", 0.0, 2.0), part("a/both.mp4", 4.0, 6.0)
STARTS = {X: (0.0, 1.0, 2.0), Y: (0.0,), ALONE: (1.0, 2.0), FIRST: (0.0, 1.0), SECOND: (4.0, 5.0)}

RATES = {X: 30000 / 1001, SECOND: 25.0}


@pytest.fixture
def shard(tmp_path: Path) -> Marker:
    keys: dict[Source, list[str]] = {}
    with ShardWriter(str(tmp_path), "train-000000") as writer:
        for source, starts in STARTS.items():
            path = source.path
            for start_s in starts:
                metadata = {
                    "label": None if path[0] == "b" else "apple",
                    "fps": RATES.get(source, 8.0),
                }
                metadata |= {"source": path, "start_s": start_s}
                content = f"{path} {start_s}".encode()
                key = str(hash((path, start_s)) % 2**32)
                writer.add(key, {"mkv": content, "json": json.dumps(metadata).encode()})
                keys.setdefault(source, []).append(key)
        accounts = [(source, Account("ok", None, len(starts))) for source, starts in STARTS.items()]
        details = manifest.to_marker(accounts) | keys_of_parts(keys.items())
        return writer.publish([source.id for source in STARTS], "spec", "made", details)


def test_clips_are_read_in_the_order_of_references(tmp_path: Path, shard: Marker) -> None:
    refs = [ClipRef(shard.name, source.id, n) for source, n in [(X, 2), (Y, 0), (X, 0)]]
    clips = read_clips(str(tmp_path), shard, refs)
    assert [clip.video for clip in clips] == [b"a/x.mp4 2.0", b"b/y.mp4 0.0", b"a/x.mp4 0.0"]
    assert [clip.label for clip in clips] == ["apple", None, "apple"]


def test_clips_of_parts_are_those_of_the_part(tmp_path: Path, shard: Marker) -> None:
    drawn = [(SECOND, 1), (ALONE, 0), (FIRST, 1), (SECOND, 0)]
    clips = read_clips(str(tmp_path), shard, [ClipRef(shard.name, s.id, n) for s, n in drawn])
    wanted = [b"a/both.mp4 5.0", b"a/alone.mp4 1.0", b"a/both.mp4 1.0", b"a/both.mp4 4.0"]
    assert [clip.video for clip in clips] == wanted


def test_the_rates_of_clips_are_told_without_decoding_them(tmp_path: Path, shard: Marker) -> None:
    """What is stored here as videos is none."""
    refs = tuple(ClipRef(shard.name, s.id, n) for s, n in [(X, 2), (SECOND, 0), (Y, 0), (FIRST, 1)])
    batch = Batch("rates", (0, 1, 2, 3), "key", shard, refs)
    (tmp_path / "clips").symlink_to(tmp_path)
    inputs = Inputs(
        Evaluate(root=str(tmp_path)), {"classes": []}, {}, "", "", False, None, None, None
    )
    spec = FeatureSpec(None, None, None, None, False, False, False)
    found = unpack(FeatureWorker(inputs, spec, [batch], Devices())({"batch": 0})["features"])
    assert found["fps"].tolist() == [30000 / 1001, 25.0, 8.0, 8.0]


def test_samples_follow_the_captions_that_they_were_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    bundle = write_bundle(tmp_path / "ldm/base", size=16, captioned=True)
    config = Evaluate(root=str(tmp_path), steps=1)
    inputs = Inputs(
        config, load_config(bundle), {}, "model", "tokens", False, None, None, None, "caption"
    )
    spec = FeatureSpec(None, None, None, None, False, False, True)
    told = "a red ball", "a blue ball", None
    requests = [Request("zero", n, 8.0, prompt=text) for n, text in enumerate(told)]
    batches = sample_batches(inputs, spec, requests, 0, Devices())
    found = unpack(FeatureWorker(inputs, spec, batches, Devices())({"batch": 0})["features"])
    generator = VideoGenerator.load(bundle)
    for number, text in enumerate(told):
        seed = [requests[number].seed(0)]
        asked = [generator.sample(["zero"], 8.0, prompts=[p], seed=seed, steps=1) for p in told]
        distance = [
            np.abs(thumbnails(video)[0].astype(int) - found["thumbnails"][number]).max()
            for video in asked
        ]
        assert distance[number] <= 1 and sum(each <= 1 for each in distance) == 1, text


def test_an_account_that_does_not_fit_is_refused(tmp_path: Path, shard: Marker) -> None:
    with pytest.raises(UserError, match=r"run jobs/shard_videos\.py again"):
        read_clips(str(tmp_path), shard, [ClipRef(shard.name, X.id, 3)])


def test_a_damaged_shard_is_refused(tmp_path: Path, shard: Marker) -> None:
    tar = tmp_path / f"{shard.name}.tar"
    tar.write_bytes(tar.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"does not match its marker: run jobs/shard_videos\.py again"
    ):
        read_clips(str(tmp_path), shard, [])


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("train", "no training video of 'pear' is left .* that it judges: lower --num-real"),
        ("val", "no training clip is of 'pear', .* all its clips are in the validation split"),
    ],
)
def test_why_a_classifier_lacks_a_class(tmp_path: Path, split: str, words: str) -> None:
    ids = ("apple1", "apple2", "pear1")
    rows = [{"id": id, "uri": f"/{id}.mp4", "clips": 2, "label": id[:-1]} for id in ids]
    markers = [
        Marker("train-0", "0", 0, ["k"], ["apple1", "apple2"], "spec", "made"),
        Marker(f"{split}-1", "0", 0, ["k"], ["pear1"], "spec", "made"),
    ]
    judged = [ClipRef("train-0", "apple1", 0), ClipRef(f"{split}-1", "pear1", 0)]
    bundle = {"classes": ["apple", "pear"]}
    config = Evaluate(root=str(tmp_path))
    inputs = Inputs(config, bundle, {"fingerprint": "f"}, "", "", False, None, None, None)
    with pytest.raises(UserError, match=words):
        frame_classifier_state(inputs, markers, Drawn(rows, judged, [], []))


def test_many_classes_take_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"id": name, "uri": f"/{name}.mp4", "clips": 1, "label": name}
        for name in (f"class{i}" for i in range(5))
    ]
    markers = [Marker("train-0", "0", 0, ["k"], [row["id"] for row in rows], "spec", "made")]
    bundle = {"classes": [row["label"] for row in rows]}
    config = Evaluate(root=str(tmp_path))
    inputs = Inputs(config, bundle, {"fingerprint": "f"}, "", "", False, None, None, None)

    def stored(_: str, __: Marker, refs: list[ClipRef]) -> list[StoredClip]:
        return [StoredClip(b"", ref.source, 8.0, ref.source) for ref in refs]

    shapes: list[tuple[int, ...]] = []

    def train(videos: Frames, *_: object) -> FrameClassifier:
        shapes.append(videos.shape)
        return FrameClassifier(5)

    monkeypatch.setattr(worker, "read_clips", stored)
    monkeypatch.setattr(worker, "decode_clip", lambda _: np.zeros((16, 8, 8, 3), np.uint8))
    monkeypatch.setattr(worker, "train_frame_classifier", train)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    for most in (5, 2):
        monkeypatch.setattr(worker, "DETECTOR_CLIPS", most)
        inputs.index["fingerprint"] = f"clips {most}"  # Nothing is cached for it.
        frame_classifier_state(inputs, markers, Drawn(rows, [], [], []))
    assert shapes == [(5, 16, 8, 8, 3), (5, 6, 8, 8, 3)]
