"""The work cut into portions: what one worker watches at once, and what may be kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.draw import Pick
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.observe import Instruments
from pipelines.generation import Request, batches
from pipelines.io import storage
from pipelines.io.shards import Marker

SHOWN = 10
"""Videos of a kind on the report."""


@dataclass(frozen=True)
class Portion:
    """What a worker watches at once: clips of one shard, or requests of one frame rate."""

    group: str
    """The set it belongs to."""
    indices: tuple[int, ...]
    """Places of its videos in that set."""
    key: str
    """Fingerprint of all that the observation depends on."""
    marker: Marker | None = None
    picks: tuple[Pick, ...] = ()
    requests: tuple[Request, ...] = ()
    show: tuple[int, ...] = ()
    """Which of its videos go on the report, by their number within the portion."""


def clip_portions(
    group: str, markers: Sequence[Marker], picks: Sequence[Pick], basis: Sequence[str]
) -> list[Portion]:
    """A portion for each shard that the picks lie in; `basis` is what else decides."""
    by_name = {marker.name: marker for marker in markers}
    places: dict[str, list[int]] = {}
    for i, pick in enumerate(picks):
        places.setdefault(pick.shard, []).append(i)
    portions = []
    for name, indices in sorted(places.items()):
        chosen = tuple(picks[i] for i in indices)
        key = [*basis, by_name[name].sha256, [[pick.source, pick.ordinal] for pick in chosen]]
        portions.append(
            Portion(group, tuple(indices), storage.fingerprint(key), by_name[name], chosen)
        )
    return portions


def requests_like(
    class_index_N: NDArray, fps_N: NDArray, classes: Sequence[str], count: int, repeat: int
) -> list[Request]:
    """Requests in the proportions of real clips, whose classes and rates are given.

    Real clips are ordered by class and rate and met at even steps. Where some class has no
    real clip, classes and rates take turns instead.
    """
    start = repeat * count
    if classes and len(set(class_index_N.tolist())) < len(classes):
        rates = sorted(set(fps_N.tolist()))
        return [
            Request(classes[i % len(classes)], start + i, rates[i // len(classes) % len(rates)])
            for i in range(count)
        ]
    order = np.lexsort((fps_N, class_index_N))
    met = order[np.linspace(0, len(order) - 1, count).round().astype(int)]
    labels: list[str | None] = list(classes) or [None]
    return [
        Request(labels[max(0, int(class_index_N[j]))], start + i, float(fps_N[j]))
        for i, j in enumerate(met)
    ]


def sample_portions(
    inputs: Inputs, instruments: Instruments, requests: Sequence[Request], repeat: int
) -> list[Portion]:
    """Requests in batches; of the first repeat, one of each class goes on the report."""
    config = inputs.config
    place = {request: i for i, request in enumerate(requests)}
    shown: dict[str | None, Request] = {}
    for request in requests if repeat == 0 else []:
        shown.setdefault(request.label, request)
    labels = list(shown)
    if len(labels) == 1:  # without classes, the first ones
        show = set(requests[:SHOWN])
    else:
        show = {shown[labels[i]] for i in spread(len(labels), SHOWN)}
    settings = [config.steps, config.sampler, config.guidance, config.seed, config.batch_size]
    basis = [instruments.fingerprint, inputs.bundle["fingerprint"], "samples", settings]
    portions = []
    for group in batches(requests, config.batch_size):
        key = storage.fingerprint([*basis, [[r.label, r.number, r.fps] for r in group]])
        visible = tuple(i for i, request in enumerate(group) if repeat == 0 and request in show)
        if visible:
            key = storage.fingerprint([key, visible])
        indices = tuple(place[request] for request in group)
        portions.append(
            Portion(f"samples {repeat}", indices, key, requests=tuple(group), show=visible)
        )
    return portions


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, evenly spread."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))
