"""Features that are cached are read; others are extracted, and again where a disk was full."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.cluster.devices import Devices
from pipelines.evaluation import extraction
from pipelines.evaluation.batches import Batch
from pipelines.evaluation.extraction import extract
from pipelines.evaluation.features import FeatureSpec, cache_uri, cached
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.settings import Evaluate
from pipelines.io import room
from tests.described_model import BUNDLE, INDEX
from tests.in_process_graphs import run_graphs_in_process


def test_no_worker_is_started_for_cached_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(
        Evaluate(root=str(tmp_path)), BUNDLE, INDEX, "model", "tokenizer", False, None, None, None
    )
    spec = FeatureSpec(None, None, None, None, False, False, False)
    batches = [Batch("real", (number,), f"key{number}") for number in range(3)]
    folder = inputs.config.workspace.features
    for number in range(3):
        cached(folder, f"key{number}", lambda number=number: {"fps": np.array([float(number)])})

    asked: list[Batch] = []

    def by_workers(_: object, __: object, batches: list[Batch], ___: object) -> Any:
        asked.extend(batches)
        yield from ()

    monkeypatch.setattr(extraction, "_by_workers", by_workers)
    seen = [
        (batch.key, found["fps"][0]) for batch, found in extract(inputs, spec, batches, Devices())
    ]
    assert seen == [("key0", 0.0), ("key1", 1.0), ("key2", 2.0)] and not asked
    Path(cache_uri(folder, "key1")).write_bytes(b"torn")
    Path(cache_uri(folder, "key2")).unlink()
    assert [batch.key for batch, _ in extract(inputs, spec, batches, Devices())] == ["key0"]
    assert [batch.key for batch in asked] == ["key1", "key2"]


def test_features_of_a_batch_whose_disk_was_full_are_extracted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Worker:
        full = True

        def __init__(self, *_: object) -> None:
            pass

        def __call__(self, row: dict) -> dict:
            if Worker.full:
                Worker.full = False
                with room.filling("/scratch", 1, room.SCRATCH_CURE):
                    raise OSError(errno.ENOSPC, "No space left on device")
            found = {"fps": np.array([float(row["batch"])])}
            return row | {"features": cached(str(tmp_path), str(row["batch"]), lambda: found)}

    monkeypatch.setattr(extraction, "FeatureWorker", Worker)
    run_graphs_in_process(monkeypatch)
    inputs = Inputs(
        Evaluate(root=str(tmp_path)), BUNDLE, INDEX, "model", "tokenizer", False, None, None, None
    )
    spec = FeatureSpec(None, None, None, None, False, False, False)
    batches = [Batch("real", (number,), f"key{number}") for number in range(3)]
    found = [
        (batch.key, found["fps"][0]) for batch, found in extract(inputs, spec, batches, Devices())
    ]
    assert found == [("key1", 1.0), ("key2", 2.0), ("key0", 0.0)]
