"""Statistics cover all that the training split stores, from the sums of its shards."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.io.markers import Marker
from pipelines.latents.captions import Captions, Embeddings
from pipelines.latents.statistics import Sums, channel_statistics, embedding_statistics


def test_statistics_are_those_of_all_training_latents() -> None:
    rng = np.random.default_rng(1)
    parts = [
        (3 * rng.standard_normal((n, 3, 2, 4, 4)) + 5).astype(np.float16) for n in (1, 4, 2, 3)
    ]
    markers = []
    for index, part in enumerate(parts):
        sums = Sums()
        sums.add(part[:1])
        if len(part) > 1:
            sums.add(part[1:])
        name = f"{'val' if index == 3 else 'train'}-{index:06d}"
        markers.append(Marker(name, "", 0, ["k"], [], "", "", {"sums": sums.as_dict()}))
    markers.append(Marker("train-000009", "", 0, [], [], "", "", {"sums": Sums().as_dict()}))
    mean, std = channel_statistics([Marker.from_json(m.to_json()) for m in markers])
    everything = np.concatenate(parts[:3]).astype(np.float64)
    assert mean == pytest.approx(everything.mean((0, 2, 3, 4)).tolist(), rel=1e-10)
    assert std == pytest.approx(everything.std((0, 2, 3, 4)).tolist(), rel=1e-8)


def captioned(embedding: dict[str, list[float]], splits: dict[str, str]) -> list[Marker]:
    """A marker for each split, with the captions that are letters of a text; a dash is none."""

    def embed(texts: Any) -> torch.Tensor:
        return torch.tensor([embedding[text or "-"] for text in texts])

    markers = []
    for number, (split, letters) in enumerate(splits.items()):
        embeddings = Embeddings(Captions("caption", {}), embed)
        for letter in letters:
            told = {"caption": None if letter == "-" else letter}
            embeddings.member(json.dumps(told).encode())
        marker = Marker(
            f"{split}-{number:06d}", "", 0, [], [], "", "", {"text": embeddings.details}
        )
        markers.append(Marker.from_json(marker.to_json()))
    return markers


EMBEDDING = {"-": [0.0, 0.0], "a": [1.0, 3.0], "b": [2.0, 3.0]}


def test_embeddings_have_a_mean_each_and_a_deviation_together() -> None:
    mean, std = embedding_statistics(captioned(EMBEDDING, {"train": "ab-ab", "val": "bbbb"}))
    assert mean == [1.5, 3.0]
    assert std == pytest.approx(np.sqrt((0.25 + 0.0) / 2))


@pytest.mark.parametrize(("letters", "mean"), [("aaa", [1.0, 3.0]), ("---", [0.0, 0.0])])
def test_captions_that_tell_nothing_apart_are_not_blown_up(letters: str, mean: list[float]) -> None:
    assert embedding_statistics(captioned(EMBEDDING, {"train": letters, "val": "ab"})) == (mean, 1)
