"""Captions of clips are encoded once each, beside the latents, by an encoder that is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipelines.io import shards, storage
from pipelines.io.arrays import TEXT, latent_arrays
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardWriter
from pipelines.latents.captions import (
    Captions,
    Embeddings,
    captions_by,
    captions_there,
    check_encoder,
    check_source,
    encoder_bytes,
    flags_there,
    publish_encoder,
)
from pipelines.latents.encoder import EncodePlan, EncodeShard, Origin, begun_with, spec_hash
from pipelines.video.lossless import encode_lossless
from tests.text_encoders import WIDTH, write_encoder
from vqvdm.checkpoint import save_model
from vqvdm.errors import UserError
from vqvdm.text_encoder import TextEncoder
from vqvdm.tokenizer.pixels import PIXELS, Pixels

ORIGIN = Origin("weights", "clips")
CAPTIONS = Captions("caption", {"config.json": "1"})
TOLD: dict[str, Any] = {
    "a": {"caption": "a red ball"},
    "b": {"caption": None},
    "c": {"caption": "a blue ball"},
    "d": {"caption": "a red ball"},
}


class Counted:
    """An encoder that tells what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def __call__(self, texts: list[str | None]) -> torch.Tensor:
        self.asked += texts
        return torch.full((len(texts), 4), float(len(texts[0] or "")))


def test_each_caption_is_encoded_once() -> None:
    encoder = Counted()
    embeddings = Embeddings(CAPTIONS, encoder)
    members = [embeddings.member(json.dumps(told).encode()) for told in TOLD.values()]
    assert encoder.asked == ["a red ball", None, "a blue ball"]
    assert members[0] == members[3]
    details = embeddings.details
    assert (details["width"], details["clips"], details["sums"]["count"]) == (4, 3, 3)


@pytest.mark.parametrize("value", [["one", "two"], {"text": "one"}, 5])
def test_a_caption_that_is_no_text_is_refused(value: Any) -> None:
    told = json.dumps({"source": "cat/1.mp4", "caption": value}).encode()
    with pytest.raises(UserError, match=r"caption of cat/1\.mp4 is .*: a caption is a text"):
        Embeddings(CAPTIONS, Counted()).member(told)


def test_other_encoders_and_columns_are_other_latents() -> None:
    others = [None, CAPTIONS, replace(CAPTIONS, column="mood"), Captions("caption", {"a": "2"})]
    hashes = {spec_hash(ORIGIN, "fp32", 4, "none", each) for each in others}
    assert len(hashes) == 4 and spec_hash(ORIGIN, "fp32", 4) in hashes
    found = spec_hash(ORIGIN, "bf16", 4, "none", CAPTIONS)
    assert begun_with(found, ORIGIN, 4, "none", CAPTIONS) == "bf16"
    assert begun_with(found, ORIGIN, 4) is None


def test_an_index_tells_what_encoded_captions() -> None:
    told = {"column": "caption", "files": {"config.json": "1"}, "width": 4, "clips": 3}
    assert captions_there({"text": told}) == CAPTIONS
    assert captions_there({}) is None
    with pytest.raises(UserError, match=r"'\.\./run\.json' cannot be a file of a text encoder"):
        captions_there({"text": told | {"files": {"../run.json": "1"}}})


def encoder_like(folder: Path) -> str:
    """Files that have the names of an encoder's, and some that are none."""
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "vocab.txt", "pytorch_model.bin", "code.py"):
        (folder / name).write_text(name)
    return str(folder)


def test_the_encoder_is_copied_beside_the_latents_and_checked(tmp_path: Path) -> None:
    source, folder = encoder_like(tmp_path / "bert"), str(tmp_path / "latents")
    captions = captions_by(source, "caption")
    assert set(captions.files) == {"config.json", "model.safetensors", "vocab.txt"}
    publish_encoder(source, folder, captions)
    copies = {path.name: path for path in (tmp_path / "latents/text_encoder").iterdir()}
    assert copies.keys() == captions.files.keys()
    assert captions.names == {f"text_encoder/{name}" for name in copies}
    check_encoder(folder, captions)
    # What is there is left, what differs is copied again.
    before = {name: path.stat().st_mtime_ns for name, path in copies.items()}
    copies["vocab.txt"].write_text("other")
    with pytest.raises(UserError, match=r"text_encoder/vocab\.txt is missing or does not match"):
        check_encoder(folder, captions)
    publish_encoder(source, folder, captions)
    check_encoder(folder, captions)
    assert copies["config.json"].stat().st_mtime_ns == before["config.json"]


def test_a_folder_without_an_encoder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no text encoder: it lacks config\.json and weights as"):
        captions_by(str(tmp_path), "caption")


def test_an_encoder_is_tried_before_latents_are_deleted_for_it(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "latents"
    there = write_encoder(folder / "text_encoder")
    check_source(str(there), str(folder), captions_by(str(there), "caption"))
    within = encoder_like(folder / "mine")
    with pytest.raises(UserError, match=r"--text-encoder .*/mine lies in .*/latents, of which"):
        check_source(within, str(folder), captions_by(within, "caption"))
    broken = encoder_like(tmp_path / "broken")
    with pytest.raises(UserError, match=rf"^{broken} holds no text encoder that transformers load"):
        check_source(broken, str(folder), captions_by(broken, "caption"))


def test_the_memory_of_an_encoder_is_that_of_its_weights_in_fp32(tmp_path: Path) -> None:
    source = encoder_like(tmp_path / "latents/text_encoder")
    captions = captions_by(source, "caption")
    assert encoder_bytes(source, captions) == 0  # no weights, as who loads it tells
    half = {"a": torch.zeros(3, 5, dtype=torch.float16), "b": torch.zeros((), dtype=torch.bfloat16)}
    save_file(half, f"{source}/model.safetensors", {"format": "pt"})
    assert encoder_bytes(source, captions) == 4 * 16


@pytest.fixture
def plan(tmp_path: Path) -> EncodePlan:
    """Clips that are their own latents, captions, and a text encoder."""
    pytest.importorskip("transformers")
    save_model(tmp_path / "vqgan", Pixels(), {"model": PIXELS})
    clips, latents = str(tmp_path / "clips"), str(tmp_path / "latents")
    mkv = encode_lossless(np.full((4, 16, 16, 3), 90, np.uint8), 8)
    with ShardWriter(clips, "train-000000") as writer:
        for key, told in TOLD.items():
            metadata = {"label": None, "fps": 8.0, **told}
            writer.add(key, {"mkv": mkv, "json": json.dumps(metadata).encode()})
        marker = writer.publish(["video"], "clips", "made", {})
    source = str(write_encoder(tmp_path / "bert"))
    captions = captions_by(source, "caption")
    publish_encoder(source, latents, captions)
    return EncodePlan(clips, marker, latents, "spec", ORIGIN, captions=captions)


@pytest.fixture
def encoder(tmp_path: Path) -> Iterator[EncodeShard]:
    threads = torch.get_num_threads()
    yield EncodeShard(str(tmp_path / "vqgan"), batch_size=3, precision="fp32")
    torch.set_num_threads(threads)


def encoded(encoder: EncodeShard, plan: EncodePlan) -> tuple[Marker, dict[str, dict[str, bytes]]]:
    marker = Marker.from_json(encoder({"plan": plan, "verify": True})["marker"])
    samples = shards.read_shard(plan.folder, marker, "encode_latents")
    return marker, {sample.key: sample.members for sample in samples}


def test_embeddings_lie_beside_the_latents_of_their_clips(
    encoder: EncodeShard, plan: EncodePlan, tmp_path: Path
) -> None:
    marker, samples = encoded(encoder, replace(plan, augment="mirror"))
    told = marker.details["text"]
    assert (told["width"], told["clips"]) == (WIDTH, 3)
    wanted = TextEncoder(tmp_path / "bert")([TOLD[key]["caption"] for key in TOLD])
    for key, embedding_D in zip(TOLD, wanted, strict=True):
        for each in (key, f"{key}-mirrored"):
            found = latent_arrays(samples[each], [])["text"]
            assert found.dtype == np.float16
            assert found == pytest.approx(embedding_D.numpy(), abs=2e-3)


def test_without_captions_shards_are_what_they_were(encoder: EncodeShard, plan: EncodePlan) -> None:
    marker, samples = encoded(encoder, replace(plan, captions=None, folder=f"{plan.folder}-plain"))
    assert marker.details.keys() == {"sums", "fps", "origin"}
    assert {name for members in samples.values() for name in members} == {"json", "npy"}
    _, captioned = encoded(encoder, plan)
    for key, members in samples.items():
        assert captioned[key] == members | {TEXT: captioned[key][TEXT]}


def test_latents_with_captions_tell_how_to_go_on_with_them(tmp_path: Path) -> None:
    folder, told = str(tmp_path), {"column": "mood", "files": {"config.json": "1"}}
    assert flags_there(folder) == ""
    storage.publish_json({"text": told}, f"{folder}/index.json")
    flags = f"--text-encoder {folder}/text_encoder --caption-column mood"
    assert flags_there(folder) == f"{flags} to go on with its captions"
