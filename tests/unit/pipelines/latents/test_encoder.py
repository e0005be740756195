"""Clip shards become latent shards."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.io import shards
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardWriter
from pipelines.latents.encoder import (
    EncodePlan,
    EncodeShard,
    Origin,
    latent_shape,
)
from pipelines.latents.statistics import channel_statistics
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.settings import TrainVQGAN
from pipelines.training.world import World
from pipelines.video.lossless import encode_lossless
from vqvdm.errors import UserError
from vqvdm.generator import from_uint8, load_vqgan
from vqvdm.tokenizer.vqgan import VQGANConfig

KEYS = ["a", "b", "c"]
VIDEOS = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
ORIGIN = Origin("sha256 of the weights", "clips")
CLIPS = [encode_lossless(video, 8) for video in VIDEOS]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vqgan")
    model = VQGANConfig(
        blocks=((2, 4, 4),), widths=(8,), depths=(1,), quantizer="fsq", levels=(4, 4, 4)
    )
    VQGANMethod(TrainVQGAN(model=model), World()).export(folder)
    return folder


@pytest.fixture
def encoder(export: Path) -> Iterator[EncodeShard]:
    threads = torch.get_num_threads()
    yield EncodeShard(str(export), batch_size=2, precision="fp32")
    torch.set_num_threads(threads)


@pytest.fixture
def plan(tmp_path: Path) -> EncodePlan:
    clips = str(tmp_path / "clips")
    with ShardWriter(clips, "train-000000") as writer:
        for number, (key, mkv) in enumerate(zip(KEYS, CLIPS, strict=True)):
            metadata = json.dumps({"label": str(number), "fps": [8.0, 16.0][number % 2]})
            writer.add(key, {"mkv": mkv, "json": metadata.encode()})
        marker = writer.publish(["video"], "clips", "made", {})
    return EncodePlan(clips, marker, str(tmp_path / "latents"), "spec", ORIGIN)


def encode(encoder: EncodeShard, plan: EncodePlan) -> tuple[Marker, bool]:
    row = encoder({"plan": plan, "verify": True})
    return Marker.from_json(row["marker"]), row["made"]


def read(plan: EncodePlan, marker: Marker) -> dict[str, np.ndarray]:
    samples = shards.read_shard(plan.folder, marker, "encode_latents")
    return {s.key: np.load(io.BytesIO(s.members["npy"]), allow_pickle=False) for s in samples}


def test_a_clip_shard_becomes_a_latent_shard(
    encoder: EncodeShard, plan: EncodePlan, export: Path
) -> None:
    marker, made = encode(encoder, plan)
    assert made
    assert (marker.name, marker.keys, marker.spec_hash) == ("train-000000", KEYS, "spec")
    assert marker.sources == [plan.marker.sha256]
    assert marker.details["fps"] == {"8.0": 2, "16.0": 1}
    latents = read(plan, marker)
    assert list(latents) == KEYS
    with torch.inference_mode():
        expected = load_vqgan(export).encode(from_uint8(torch.from_numpy(VIDEOS))).numpy()
    for latent, wanted in zip(latents.values(), expected, strict=True):
        assert (latent.shape, latent.dtype) == ((3, 2, 4, 4), np.float16)
        assert latent == pytest.approx(wanted, abs=2e-3)
    mean, _ = channel_statistics([marker])
    stored = np.stack(list(latents.values())).astype(np.float64)
    assert mean == pytest.approx(stored.mean((0, 2, 3, 4)).tolist())


def test_mirror_images_are_encoded_for_training_only(
    encoder: EncodeShard, plan: EncodePlan, export: Path
) -> None:
    mirror = replace(plan, augment="mirror", folder=f"{plan.folder}-mirrored")
    marker, _ = encode(encoder, mirror)
    assert marker.keys == ["a", "a-mirrored", "b", "b-mirrored", "c", "c-mirrored"]
    assert marker.details["fps"] == {"8.0": 4, "16.0": 2}
    latents, plain = read(mirror, marker), read(plan, encode(encoder, plan)[0])
    images = torch.from_numpy(np.ascontiguousarray(VIDEOS[:, :, :, ::-1]))
    with torch.inference_mode():
        expected = load_vqgan(export).encode(from_uint8(images)).numpy()
    for key, wanted in zip(KEYS, expected, strict=True):
        assert (latents[key] == plain[key]).all()
        assert latents[f"{key}-mirrored"] == pytest.approx(wanted, abs=2e-3)
    read_again = {s.key: s.members["json"] for s in shards.read_shard(mirror.folder, marker, "")}
    assert read_again["b"] == read_again["b-mirrored"]
    mean, _ = channel_statistics([marker])
    stored = np.stack(list(latents.values())).astype(np.float64)
    assert mean == pytest.approx(stored.mean((0, 2, 3, 4)).tolist())
    # What is there is known again, and is not taken for the latents of clips alone.
    assert mirror.finished(True) == marker
    assert replace(mirror, augment="none").finished(True) is None
    judged_by = replace(mirror, marker=replace(mirror.marker, name="val-000000"))
    assert judged_by.keys == KEYS and list(judged_by.views) == [""]


def test_a_shard_records_what_it_was_made_from(encoder: EncodeShard, plan: EncodePlan) -> None:
    marker, _ = encode(encoder, plan)
    assert marker.details["origin"] == {
        "vqgan_sha256": ORIGIN.vqgan_sha256,
        "clip_spec": ORIGIN.clip_spec,
    }


@pytest.mark.parametrize(
    "wrong", [{"keys": ["a", "b"]}, {"details": {}}, {"made_from": "other clips"}]
)
def test_a_shard_with_another_marker_is_made_again(
    encoder: EncodeShard, plan: EncodePlan, wrong: dict
) -> None:
    first, _ = encode(encoder, plan)
    marker = replace(first, **wrong).to_json()
    Path(plan.folder, "train-000000.json").write_bytes(marker)
    assert encode(encoder, plan) == (first, True)
    assert encode(encoder, plan) == (first, False)


def test_two_shards_at_a_time_have_the_bytes_of_one_after_the_other(
    encoder: EncodeShard, plan: EncodePlan
) -> None:
    one, two = replace(plan, folder=f"{plan.folder}/1"), replace(plan, folder=f"{plan.folder}/2")
    expected, _ = encode(encoder, plan)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda each: encode(encoder, each), [one, two] * 3))
    assert {marker.sha256 for marker, _ in found} == {expected.sha256}


def test_clips_are_taken_as_they_are_decoded(export: Path) -> None:
    """A shard may be larger than a worker's memory."""
    taken = 0

    def clips() -> Iterator[bytes]:
        nonlocal taken
        while taken < 9:
            taken += 1
            yield CLIPS[0]

    encoder = EncodeShard(str(export), batch_size=2, precision="fp32")
    for done, batch in enumerate(encoder.encode(clips()), 1):
        assert len(batch[""]) == (2 if done < 5 else 1)
        assert taken == min(2 * done, 9)


def test_no_clips_give_no_latents(encoder: EncodeShard) -> None:
    assert list(encoder.encode([])) == []


def test_labels_are_kept(encoder: EncodeShard, plan: EncodePlan) -> None:
    marker, _ = encode(encoder, plan)
    of_clips = shards.read_shard(plan.clips, plan.marker, "shard_videos")
    of_latents = shards.read_shard(plan.folder, marker, "encode_latents")
    for clip, latent in zip(of_clips, of_latents, strict=True):
        assert latent.members["json"] == clip.members["json"]


def test_an_intact_latent_shard_is_kept_and_a_damaged_one_made_again(
    encoder: EncodeShard, plan: EncodePlan
) -> None:
    first, _ = encode(encoder, plan)
    assert encode(encoder, plan) == (first, False)
    tar = Path(plan.folder, "train-000000.tar")
    tar.write_bytes(tar.read_bytes()[:-1])
    assert encode(encoder, plan) == (first, True)  # the same bytes


def test_a_latent_does_not_depend_on_its_neighbours(encoder: EncodeShard, plan: EncodePlan) -> None:
    marker, _ = encode(encoder, plan)
    latents = read(plan, marker)
    for key, clip, other in zip(KEYS, CLIPS, reversed(CLIPS), strict=True):
        (alone,), (together,) = encoder.encode([clip]), encoder.encode([clip, other])
        assert np.array_equal(alone[""][0], latents[key])
        assert np.array_equal(together[""][0], latents[key])


def test_a_damaged_clip_shard_is_named(encoder: EncodeShard, plan: EncodePlan) -> None:
    Path(plan.clips, "train-000000.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"clips/train-000000\.tar.*shard_videos"):
        encode(encoder, plan)
    assert not Path(plan.folder).exists()


def test_the_shape_is_that_of_the_clips_whatever_the_encoder_was_trained_on(export: Path) -> None:
    vqgan = json.loads((export / "config.json").read_text())
    assert latent_shape(vqgan, {"frames": 4, "size": 16}) == [3, 2, 4, 4]
    assert latent_shape(vqgan, {"frames": 16, "size": 128}) == [3, 8, 32, 32]
    with pytest.raises(UserError, match="18 height do not divide by 4; use 16 or 20"):
        latent_shape(vqgan, {"frames": 4, "size": 18})
