"""Features of batches: the cached ones are read, the others extracted by a pool of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.cluster import tasks
from pipelines.cluster.devices import Devices
from pipelines.cluster.placement import settle_precision
from pipelines.evaluation.batches import Batch
from pipelines.evaluation.features import Features, FeatureSpec, cache_uri, find_cached, unpack
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.worker import FeatureWorker
from pipelines.io import storage
from pipelines.io.progress import Progress


def extract(
    inputs: Inputs, spec: FeatureSpec, batches: Sequence[Batch], devices: Devices
) -> Iterator[tuple[Batch, Features]]:
    """The features of every batch: first the cached ones, then as workers finish them."""
    progress = Progress("videos", sum(len(batch.indices) for batch in batches))
    for batch, data in _cached_or_by_workers(inputs, spec, batches, devices):
        progress.add(len(batch.indices))
        yield batch, unpack(data)


def _cached_or_by_workers(
    inputs: Inputs, spec: FeatureSpec, batches: Sequence[Batch], devices: Devices
) -> Iterator[tuple[Batch, bytes]]:
    folder = inputs.config.workspace.features
    there = {file.uri for file in storage.walk(folder)}
    left = []
    for batch in batches:
        known = cache_uri(folder, batch.key) in there
        data = find_cached(folder, batch.key) if known else None
        if data is None:
            left.append(batch)
        else:
            yield batch, data
    if left:  # Otherwise no worker is started.
        yield from _by_workers(inputs, spec, left, devices)


def _by_workers(
    inputs: Inputs, spec: FeatureSpec, batches: Sequence[Batch], devices: Devices
) -> Iterator[tuple[Batch, bytes]]:
    samples = any(batch.requests for batch in batches)
    precision = settle_precision(devices) if samples else "auto"
    rows = tasks.run(
        [{"batch": number} for number in range(len(batches))],
        FeatureWorker,
        fn_constructor_args=(inputs, spec, batches, devices, precision),
        num_cpus=1,
        num_gpus=devices.gpus_per_worker,
        concurrency=min(devices.workers, len(batches)),
    )
    for row in rows:
        yield batches[row["batch"]], row["features"]
