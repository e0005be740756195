"""The members of a sample as arrays."""

import io
import json

import numpy as np
import pytest

from pipelines.io.arrays import clip_arrays, latent_arrays, pixel_arrays
from pipelines.video.encoder import encode_h264
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


def test_clips_of_earlier_shards_are_read() -> None:
    """They were MP4s; whoever has a root of these trains on it as it is."""
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[:, 4:12, 4:12] = 255
    metadata = json.dumps({"label": "a", "fps": 8}).encode()
    clip = clip_arrays({"mp4": encode_h264(frames, 8), "json": metadata}, ["a"])
    assert clip["video"].shape == frames.shape
    assert np.abs(clip["video"].astype(int) - frames).mean() < 5


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
