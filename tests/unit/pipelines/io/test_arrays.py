"""The members of a sample as arrays."""

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.io import shards
from pipelines.io.arrays import clip_arrays, latent_arrays, pixel_arrays
from pipelines.io.shards import ShardWriter
from pipelines.video import Frames
from pipelines.video.lossless import encode_lossless


def test_members_become_arrays() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, np.full((3, 1, 2, 2), 0.5, np.float16))
    metadata = json.dumps({"label": None, "fps": 8}).encode()
    clip = clip_arrays({"mkv": encode_lossless(frames, 8), "json": metadata}, ["a"])
    assert np.array_equal(clip["video"], frames)
    assert (clip["class_index"].item(), clip["fps"].item()) == (-1, 8.0)
    latent = latent_arrays({"npy": buffer.getvalue(), "json": metadata}, ["a"])
    assert np.array_equal(latent["latent"], np.full((3, 1, 2, 2), 0.5, np.float32))


def earlier_clip(frames: Frames) -> bytes:
    """As clips were made up to format 4."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"qp": "0", "preset": "ultrafast"}
        stream = container.add_stream("libx264rgb", rate=8, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def test_clips_of_earlier_shards_are_read(tmp_path: Path) -> None:
    """Whoever has a root of these trains on it as it is."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    metadata = json.dumps({"label": "a", "fps": 8}).encode()
    with ShardWriter(str(tmp_path), "train-000000") as writer:
        writer.add("one", {"mp4": earlier_clip(frames), "json": metadata})
        marker = writer.publish(["v"], "spec", "made", {})
    [sample] = shards.read_shard(str(tmp_path), marker, "shard_videos")
    [seen] = shards.peek(str(tmp_path), "train-000000", 2**20)
    one = shards.ShardReader(f"{tmp_path}/train-000000.tar").clip("one")
    assert shards.clip_of(sample.members) == shards.clip_of(seen.members) == one
    np.testing.assert_array_equal(clip_arrays(sample.members, ["a"])["video"], frames)
    pixels = frames.transpose(3, 0, 1, 2).astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(pixel_arrays(sample.members, ["a"])["latent"], pixels)


def test_the_classes_of_the_index_number_the_labels() -> None:
    """Not what the class had for an index when the shard was made."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 1, 2, 2), np.float16))
    members = {
        "npy": buffer.getvalue(),
        "mkv": encode_lossless(np.zeros((2, 16, 16, 3), np.uint8), 8),
        "json": json.dumps({"label": "b", "class_index": 0, "fps": 8}).encode(),
    }
    for arrays in (clip_arrays, latent_arrays, pixel_arrays):
        assert arrays(members, ["b"])["class_index"] == 0
        assert arrays(members, ["a", "b"])["class_index"] == 1
        with pytest.raises(ValueError):
            arrays(members, ["a"])


def test_nothing_is_unpickled() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"an": "object"}]), allow_pickle=True)
    metadata = json.dumps({"label": None, "fps": 8}).encode()
    with pytest.raises(ValueError, match="allow_pickle=False"):
        latent_arrays({"npy": buffer.getvalue(), "json": metadata}, [])
