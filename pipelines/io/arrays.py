"""The members of a sample as arrays, for training and the audit; and arrays as members.

The class of a sample is its label; its index is that of the label among the classes of the data
set, which stand in its `index.json`. The `class_index` beside the label is for other readers: it
is the one that the class had when the shard was made.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np

from pipelines.io.shards import clip_of
from pipelines.video.encoder import decode_clip

Members = dict[str, bytes]
Arrays = dict[str, np.ndarray]
TEXT = "text.npy"
"""The member of a latent sample that holds the embedding of its caption."""


def label_index(label: str | None, classes: Sequence[str]) -> int:
    """The index of a label among the classes; -1 without one."""
    return -1 if label is None else classes.index(label)


def clip_arrays(members: Members, classes: Sequence[str]) -> Arrays:
    """A clip sample: video uint8 (T, H, W, 3), class index (-1 for none), frames a second."""
    return {"video": decode_clip(clip_of(members))} | _labels(members, classes)


def latent_arrays(members: Members, classes: Sequence[str]) -> Arrays:
    """A latent sample: raw latent (C, T, H, W) as it is stored, class index, frames a second, and
    where captions were encoded the embedding of its own (D,)."""
    text = {"text": _stored_array(members[TEXT])} if TEXT in members else {}
    return {"latent": _stored_array(members["npy"])} | _labels(members, classes) | text


def pixel_arrays(members: Members, classes: Sequence[str]) -> Arrays:
    """A clip sample as a latent one: pixels float32 (3, T, H, W) in [-1, 1]."""
    video_CTHW = decode_clip(clip_of(members)).transpose(3, 0, 1, 2)
    return {"latent": video_CTHW.astype(np.float32) / 127.5 - 1} | _labels(members, classes)


def decode_array(data: bytes) -> np.ndarray:
    """A .npy file in memory as float32; pickled objects are refused."""
    return _stored_array(data).astype(np.float32)


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as a .npy file in memory."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _stored_array(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


def _labels(members: Members, classes: Sequence[str]) -> Arrays:
    metadata = json.loads(members["json"])
    return {
        "class_index": np.array(label_index(metadata["label"], classes), np.int64),
        "fps": np.array(metadata["fps"], np.float32),
    }
