"""Captions from a table to videos that prompts ask for, of a student too, and to their evaluation,
by the jobs, on a real S3 server; the tokenizer is made out of an image autoencoder that lies there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.io import storage
from pipelines.video.encoder import encode_h264
from tests.image_autoencoders import write_autoencoder
from tests.text_encoders import WIDTH, write_encoder

ROOT = "s3://bucket/captions"
ALONE = ("--num-workers", 1)
"""Each worker is a process, which takes seconds to start."""
FEW_STEPS = ("--steps", 4, "--batch-size", 4, "--checkpoint-every", 2, "--log-every", 2, *ALONE)
PIPELINE = "s3://bucket/stable-diffusion"
SMALL_UNET = ("--model.width", 16, "--model.head-width", 8)
COLOURS = {"a red ball": (220, 30, 30), "a blue ball": (30, 30, 220), "": (30, 220, 30)}


def write_videos(folder: Path) -> Path:
    """Still videos of three colours, and a table of their captions, of which one has none."""
    table = ""
    for number in range(9):
        caption, colour = list(COLOURS.items())[number % 3]
        video = np.broadcast_to(np.array(colour, np.uint8), (16, 32, 32, 3))
        (folder / f"{number}.mp4").write_bytes(encode_h264(video, 8.0))
        row = {"path": f"{number}.mp4", "caption": caption, "views": 3, "words": caption.split()}
        table += json.dumps(row) + "\n"
    (folder / "table.jsonl").write_text(table)
    return folder / "table.jsonl"


def publish_pipeline(folder: Path) -> None:
    """An image autoencoder of the tokenizer's usual compression, as a part of a pipeline."""
    widths = {"block_out_channels": (8, 8, 8, 8), "latent_channels": 2}
    for file in write_autoencoder(folder, **widths).iterdir():
        storage.publish_file(file, f"{PIPELINE}/vae/{file.name}")
    storage.publish_json({"_class_name": "StableDiffusionPipeline"}, f"{PIPELINE}/model_index.json")


@pytest.mark.e2e
def test_captions_become_prompts(job, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    videos, encoder = write_videos(tmp_path), write_encoder(tmp_path / "bert")
    other = write_encoder(tmp_path / "other", seed=1)

    def refused(name: str, *flags: object) -> str:
        outcome = job(name, "--root", ROOT, *flags)
        assert outcome.status == 2 and outcome.stderr.count("\n") == 1, outcome.stderr
        return outcome.stderr

    def done(name: str, *flags: object) -> str:
        outcome = job(name, "--root", ROOT, *flags)
        assert outcome.status == 0, outcome.stderr
        return outcome.figure

    clips = ("--videos", videos, "--labels", "none", "--size", 32, "--fps", 8)
    done("shard_videos", *clips, "--val-fraction", 0.3)
    publish_pipeline(tmp_path / "image")
    out_of_image = ("train_vqgan", *FEW_STEPS, "--init-from", PIPELINE)
    done(*out_of_image)
    storage.delete(f"{PIPELINE}/model_index.json")
    assert "there already, verified" in done(*out_of_image)
    vqgan = storage.read_json(f"{ROOT}/vqgan/base/config.json")
    assert vqgan["tokenizer"] == "inflated" and vqgan["validation"].keys() == {"val/psnr"}
    captions = ("--text-encoder", encoder, *ALONE)
    assert "did you mean 'caption'" in refused(
        "encode_latents", *captions, "--caption-column", "captoin"
    )
    assert "no text encoder: it lacks" in refused("encode_latents", "--text-encoder", tmp_path)
    assert done("encode_latents", *captions).endswith(", captions of 6 clips")
    assert "there already" in done("encode_latents", *captions)
    words = refused("encode_latents", "--text-encoder", other)
    assert "captions caption by" in words and "--overwrite" in words
    words = refused("encode_latents")
    assert "captions caption by" in words
    assert f"pass --text-encoder {ROOT}/latents/base/text_encoder to go on with its cap" in words
    # What cannot be encoded is told before anything is deleted.
    there = [file.uri for file in storage.walk(f"{ROOT}/latents")]
    (other / "model.safetensors").rename(other / "kept")
    (other / "model.safetensors").write_bytes(b"junk")
    anew = ("--overwrite", "--text-encoder")
    assert "holds no text encoder that" in refused("encode_latents", *anew, other)
    (other / "kept").rename(other / "model.safetensors")
    numbers = ("--caption-column", "views")
    assert "'views' holds int64" in refused("encode_latents", *anew, encoder, *numbers)
    lists = ("--caption-column", "words")
    assert ".mp4 is [" in refused("encode_latents", *anew, encoder, *lists)
    assert [file.uri for file in storage.walk(f"{ROOT}/latents")] == there
    # The encoder that is there may be the one that is asked for.
    done("encode_latents", *anew, f"{ROOT}/latents/base/text_encoder")
    assert [file.uri for file in storage.walk(f"{ROOT}/latents")] == there
    assert "encoded again" in done("encode_latents", "--audit")
    index = storage.read_json(f"{ROOT}/latents/base/index.json")
    assert index["shape"] == [8, 4, 4, 4]
    text = index["text"]
    assert (text["width"], text["clips"]) == (WIDTH, 6)

    done("train_ldm", *FEW_STEPS, *SMALL_UNET)
    copied = {file.uri.rsplit("/", 1)[1] for file in storage.walk(f"{ROOT}/ldm/base/text_encoder")}
    assert copied == set(text["files"]) == {path.name for path in encoder.iterdir()}
    # What was encoded can no longer be read by another encoder.
    weights = f"{ROOT}/latents/base/text_encoder/model.safetensors"
    kept = storage.read_bytes(weights)
    storage.publish_file(other / "model.safetensors", weights)
    assert "does not match index.json" in refused("train_ldm", *FEW_STEPS, *SMALL_UNET)
    storage.publish_bytes(kept, weights)

    # Samples are told the captions of the real clips, of which one in three has none.
    measured = (
        "--metrics",
        "psnr",
        "--real-split",
        "all",
        "--num-samples",
        9,
        "--steps",
        2,
        *ALONE,
    )
    done("evaluate", *measured)
    protocol = storage.read_json(f"{ROOT}/eval/base/metrics.json")["protocol"]
    assert protocol["captions"]["column"] == "caption"
    assert (protocol["samples"], protocol["captions"]["samples_told"]) == (9, 6)
    report = storage.read_bytes(f"{ROOT}/eval/base/report.html").decode()
    assert report.count("<h3>a red ball</h3>") == report.count("<h3>a blue ball</h3>") == 3
    assert report.count("<figcaption>real, 8 fps") == 9

    # A student is told captions too.
    assert "4 steps, val/loss_1" in done("distill_ldm", *FEW_STEPS)
    assert storage.read_json(f"{ROOT}/ldm/fast/config.json")["text"]["files"] == text["files"]
    asked = ("--prompts", "a red ball", "a blue ball", "--num-per-class", 1, "--steps", 2, *ALONE)
    done("sample", *asked, "--ldm", "fast")
    listing = storage.read_bytes(f"{ROOT}/samples/fast/samples.jsonl")
    rows = [json.loads(line) for line in listing.splitlines()]
    assert [row["prompt"] for row in rows] == ["a red ball", "a blue ball"]
    assert len({row["sha256"] for row in rows}) == 2
