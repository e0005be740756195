"""Captions of clips as embeddings, which lie beside the latents.

The text encoder is copied to `text_encoder/` beside the shards: workers read it there, and so does
the training that puts it into its bundle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.io import checksums, storage, workspace
from pipelines.io.arrays import npy_bytes
from pipelines.io.markers import Marker
from pipelines.io.scratch import scratch
from pipelines.latents.statistics import Sums, embedding_statistics
from vqvdm.errors import UserError
from vqvdm.text_encoder import (
    FOLDER,
    WEIGHTS,
    Embed,
    TextEncoder,
    encoder_files,
    sums_of,
)

MOST_OF_HEAD = 100_000_000
"""Bytes of the head of a safetensors file at most, as its library has it."""


@dataclass(frozen=True)
class Captions:
    """Which texts are encoded, and by what."""

    column: str
    """The field of a clip's JSON that holds its caption."""
    files: Mapping[str, str]
    """sha256 of each file of the encoder."""

    @property
    def identity(self) -> str:
        """Fingerprint of all that an embedding depends on beside the text."""
        return checksums.fingerprint([self.column, dict(self.files)])

    @property
    def in_words(self) -> str:
        return f"{self.column} by {checksums.fingerprint(dict(self.files))}"

    @property
    def names(self) -> set[str]:
        """The encoder's files below the folder of the latents."""
        return {f"{FOLDER}/{name}" for name in self.files}

    def of(self, metadata: Mapping[str, Any]) -> str | None:
        """The caption of a clip, by its JSON; `UserError` for one that is no text."""
        text = metadata.get(self.column)
        if text is not None and not isinstance(text, str):
            raise UserError(
                f"{self.column} of {metadata.get('source')} is {json.dumps(text)[:60]}: a caption "
                "is a text; pass the --caption-column that holds one"
            )
        return text if text and text.strip() else None

    def in_index(self, markers: list[Marker]) -> dict[str, Any]:
        """What the index of latents with these markers tells of captions."""
        mean, std = embedding_statistics(markers)
        return {
            "column": self.column,
            "files": dict(self.files),
            "width": len(mean),
            "mean": mean,
            "std": std,
            "clips": sum(marker.details["text"]["clips"] for marker in markers),
        }


def captions_by(folder: str, column: str) -> Captions:
    """Captions in a column, by the encoder in a folder; `UserError` if it lacks a file."""
    folder = storage.absolute(folder)
    names = encoder_files(storage.written_below(folder), folder)
    files = {name: storage.sha256(storage.join(folder, name)) for name in names}
    return Captions(column, files)


def captions_there(index: Mapping[str, Any]) -> Captions | None:
    """What encoded the captions of published latents, by their index; `UserError` as `sums_of`."""
    text = index.get("text")
    return Captions(text["column"], sums_of(index)) if text else None


def flags_there(folder: str) -> str:
    """The flags that go on with the captions of latents in a folder; empty if they have none."""
    there = captions_there(workspace.published(folder, "index.json") or {})
    if not there:
        return ""
    column = "" if there.column == "caption" else f" --caption-column {there.column}"
    return f"--text-encoder {storage.join(folder, FOLDER)}{column} to go on with its captions"


def check_source(source: str, folder: str, captions: Captions) -> None:
    """`UserError` unless the encoder in `source` loads, and outlives the latents in `folder`.

    Loading takes its memory for a moment: whoever deletes latents for others knows that these can
    be made.
    """
    source, folder = storage.absolute(source), storage.absolute(folder)
    if workspace.place_below(source, folder) not in (None, FOLDER):
        raise UserError(
            f"--text-encoder {source} lies in {folder}, of which nothing else is kept: move it out"
        )
    with scratch() as place:
        storage.download_folder(source, place, sorted(captions.files))
        TextEncoder(place, name=source)


def publish_encoder(source: str, folder: str, captions: Captions) -> None:
    """Copy the encoder's files beside the latents, unless they are there."""
    for name, sha256 in captions.files.items():
        target = storage.join(folder, FOLDER, name)
        if storage.sha256_or_none(target) != sha256:
            with storage.local_copy(storage.join(storage.absolute(source), name)) as path:
                storage.publish_file(path, target)


def check_encoder(folder: str, captions: Captions) -> None:
    """`UserError` unless the encoder beside the latents is the one that encoded their captions."""
    for name, sha256 in captions.files.items():
        uri = storage.join(folder, FOLDER, name)
        if storage.sha256_or_none(uri) != sha256:
            raise UserError(
                f"{uri} is missing or does not match index.json: run jobs/encode_latents.py again, "
                "with the same --text-encoder"
            )


def encoder_bytes(folder: str, captions: Captions) -> int:
    """Memory of the weights of the encoder in a folder, which are loaded as fp32."""
    total, folder = 0, storage.absolute(folder)
    for name in sorted(captions.files):
        # What is no such file is told by who loads it.
        with suppress(ValueError):
            total += _values(storage.join(folder, name)) if name.endswith(WEIGHTS) else 0
    return 4 * total


def _values(uri: str) -> int:
    """Values in a safetensors file, by its head; `ValueError` if it has none."""
    size = min(int.from_bytes(storage.read_head(uri, 8), "little"), MOST_OF_HEAD)
    tensors = json.loads(storage.read_head(uri, 8 + size)[8:])
    return sum(math.prod(each["shape"]) for name, each in tensors.items() if name[:2] != "__")


def load_encoder(folder: str, captions: Captions, device: torch.device) -> TextEncoder:
    """The encoder beside the latents in a folder."""
    with scratch() as place:
        storage.download_folder(folder, place, sorted(captions.names))
        return TextEncoder(Path(place, FOLDER), device, storage.join(folder, FOLDER))


class Embeddings:
    """The captions of a shard as its members, each encoded once: clips of a video share theirs."""

    def __init__(self, captions: Captions, embed: Embed) -> None:
        self._captions, self._embed, self._sums = captions, embed, Sums()
        self._known: dict[str | None, np.ndarray] = {}

    @property
    def details(self) -> dict[str, Any]:
        """What the marker of the shard tells: how wide embeddings are, how many clips have a
        caption, and the sums of their embeddings."""
        width, sums = self._embed([None]).shape[1], self._sums
        return {"width": width, "clips": sums.count, "sums": sums.as_dict()}

    def member(self, metadata: bytes) -> bytes:
        """The embedding of a clip's caption, float16 (D,) as .npy, by its JSON; zeros for none."""
        text = self._captions.of(json.loads(metadata))
        if text not in self._known:
            self._known[text] = self._embed([text])[0].cpu().numpy().astype(np.float16)
        embedding_D = self._known[text]
        if text is not None:
            self._sums.add(embedding_D.reshape(1, -1, 1, 1, 1))
        return npy_bytes(embedding_D)
