"""Batches of work: what a worker processes at once, and the key its features are cached under."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.cluster.devices import Devices
from pipelines.evaluation.features import FeatureSpec
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.settings import RECONSTRUCTION
from pipelines.io import checksums
from pipelines.io.markers import Marker
from pipelines.sampling.worker import Request, in_batches
from vqvdm.inference import resolve_precision

SHOWN = 10
"""Videos of each kind on the report."""


@dataclass(frozen=True)
class ClipRef:
    """A reference to a clip: the `ordinal`-th of a source video, in a shard."""

    shard: str
    source: str
    ordinal: int


Kind = Literal["rates", "real", "floor", "train", "held-out", "reconstructed", "samples"]


@dataclass(frozen=True)
class Batch:
    """What a worker processes at once: clips of one shard, or requests of one frame rate."""

    kind: Kind
    """The set it belongs to."""
    indices: tuple[int, ...]
    """Positions of its videos in that set."""
    key: str
    """Fingerprint of all that the features depend on."""
    marker: Marker | None = None
    refs: tuple[ClipRef, ...] = ()
    requests: tuple[Request, ...] = ()
    repeat: int = 0
    """Which repeat its samples are of."""
    show: tuple[int, ...] = ()
    """Numbers, within the batch, of the videos that go on the report."""


def clip_batches(
    kind: Kind, markers: Sequence[Marker], refs: Sequence[ClipRef], basis: Sequence[Any]
) -> list[Batch]:
    """A batch for each shard with such clips; `basis` is what else the features depend on."""
    by_name = {marker.name: marker for marker in markers}
    places: dict[str, list[int]] = {}
    for i, ref in enumerate(refs):
        places.setdefault(ref.shard, []).append(i)
    batches = []
    for name, indices in sorted(places.items()):
        chosen = tuple(refs[i] for i in indices)
        key = [*basis, by_name[name].sha256, [[ref.source, ref.ordinal] for ref in chosen]]
        batches.append(
            Batch(kind, tuple(indices), checksums.fingerprint(key), by_name[name], chosen)
        )
    return batches


def requests_like(
    class_index_N: NDArray,
    fps_N: NDArray,
    captions: Sequence[str | None],
    classes: Sequence[str],
    count: int,
    repeat: int,
) -> list[Request]:
    """Requests in the proportions of real clips, whose classes, rates and captions are given.

    Real clips are sorted by class and rate, and taken at even steps: each request asks for what one
    of them shows. If a class has no real clip, requests cycle through classes and rates instead,
    and through the captions of the clips of each.
    """
    start, order = repeat * count, np.lexsort((fps_N, class_index_N))
    if classes and len(set(class_index_N.tolist())) < len(classes):
        rates, told = sorted(set(fps_N.tolist())), dict[tuple[int, float], list[str | None]]()
        for j in order:
            told.setdefault((int(class_index_N[j]), float(fps_N[j])), []).append(captions[j])
        requests = []
        for i in range(count):
            turn, k = divmod(i, len(classes))
            fps = rates[turn % len(rates)]
            of_both = told.get((k, fps), [None])
            prompt = of_both[turn // len(rates) % len(of_both)]
            requests.append(Request(classes[k], start + i, fps, prompt=prompt))
        return requests
    taken = order[np.linspace(0, len(order) - 1, count).round().astype(int)]
    labels: list[str | None] = list(classes) or [None]
    return [
        Request(
            labels[max(0, int(class_index_N[j]))], start + i, float(fps_N[j]), prompt=captions[j]
        )
        for i, j in enumerate(taken)
    ]


def sample_batches(
    inputs: Inputs, spec: FeatureSpec, requests: Sequence[Request], repeat: int, devices: Devices
) -> list[Batch]:
    """Requests in batches; some videos of the first repeat go on the report."""
    config = inputs.config
    place = {request: i for i, request in enumerate(requests)}
    show = set(to_show(requests)) if repeat == 0 else set()
    basis = [spec.fingerprint, "samples", inputs.model, config.sampled_by(), precision(devices)]
    batches = []
    for group in in_batches(requests, config.batch_size):
        key = checksums.fingerprint([*basis, [_told(request) for request in group]])
        visible = tuple(i for i, request in enumerate(group) if request in show)
        if visible:
            key = checksums.fingerprint([key, visible])
        indices = tuple(place[request] for request in group)
        batches.append(
            Batch("samples", indices, key, requests=tuple(group), repeat=repeat, show=visible)
        )
    return batches


def _told(request: Request) -> list[Any]:
    """All that a video is asked by; as it was before there were captions, where it has none."""
    prompt = [] if request.prompt is None else [request.prompt]
    return [request.label, request.number, request.fps, *prompt]


def precision(devices: Devices) -> list[str]:
    """What decides the precision of samples: the cards, or what this machine's processor is fast
    at, as those of the workers are taken to be alike."""
    if devices.kind == "cuda":
        return ["cuda", *devices.cards]
    return ["cpu", str(resolve_precision("auto", torch.device("cpu")))]


def reconstruction_batches(
    inputs: Inputs,
    spec: FeatureSpec,
    markers: Sequence[Marker],
    refs: Sequence[ClipRef],
    show: Collection[int],
) -> list[Batch]:
    """Batches of real clips to reconstruct: all clips, or only those on the report, `show`."""
    metrics = set() if inputs.in_pixels else RECONSTRUCTION & set(inputs.config.wanted)
    wanted = range(len(refs)) if metrics else sorted(show)
    basis = [spec.fingerprint, "reconstructed", inputs.tokenizer]
    found = []
    for batch in clip_batches("reconstructed", markers, [refs[i] for i in wanted], basis):
        indices = tuple(wanted[i] for i in batch.indices)
        visible = tuple(i for i, place in enumerate(indices) if place in show)
        key = checksums.fingerprint([batch.key, visible])
        found.append(replace(batch, indices=indices, show=visible, key=key))
    return found


def clips_to_show(
    class_index_N: NDArray,
    fps_N: NDArray,
    captions: Sequence[str | None],
    classes: Sequence[str],
    shown: Sequence[Request],
) -> set[int]:
    """Positions of the real clips for the report, beside the samples that are `shown`: where there
    are captions, one for each that is of its class, rate and caption; otherwise one of each class,
    if possible at the rate of the sample."""
    if any(captions):
        labels = [classes[k] if k >= 0 else None for k in class_index_N.tolist()]
        places: dict[tuple[str | None, float, str | None], list[int]] = {}
        for i, kind in enumerate(zip(labels, fps_N.tolist(), captions, strict=True)):
            places.setdefault(kind, []).append(i)
        wanted = Counter((request.label, request.fps, request.prompt) for request in shown)
        return {i for kind, count in wanted.items() for i in places.get(kind, [])[:count]}
    rates_shown = {request.label: request.fps for request in shown}
    best: dict[int, int] = {}
    for i, (k, fps) in enumerate(zip(class_index_N.tolist(), fps_N, strict=True)):
        label = k if k >= 0 else -1 - i
        wanted_rate = rates_shown.get(classes[k] if k >= 0 else None)
        if label not in best or (fps == wanted_rate != fps_N[best[label]]):
            best[label] = i
    ordered = [best[label] for label in sorted(best)]
    return {ordered[i] for i in spread(len(ordered), SHOWN)}


def to_show(requests: Sequence[Request]) -> list[Request]:
    """At most `SHOWN` requests: one of each class if there are classes, at rates in turn."""
    by_label: dict[str | None, list[Request]] = {}
    for request in requests:
        by_label.setdefault(request.label, []).append(request)
    groups = list(by_label.values())
    if len(groups) == 1:
        return [requests[i] for i in spread(len(requests), SHOWN)]
    rates = sorted({request.fps for request in requests})
    chosen = []
    for turn, i in enumerate(spread(len(groups), SHOWN)):
        rate = rates[turn % len(rates)]
        chosen.append(next((each for each in groups[i] if each.fps == rate), groups[i][0]))
    return chosen


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` positions, evenly spread."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))
