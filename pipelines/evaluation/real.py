"""The real side: clips drawn, watched, and checked against what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.config.schema import Evaluate, parse_rates
from pipelines.evaluation.draw import Pick, draw
from pipelines.evaluation.figures import RECONSTRUCTION, Figures
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.observe import FORMAT, Instruments, Observation
from pipelines.evaluation.portions import Portion, clip_portions
from pipelines.evaluation.summary import Summary
from pipelines.io import manifest
from pipelines.io.shards import Marker
from vqvdm.errors import UserError

Watched: TypeAlias = Callable[
    [Inputs, Instruments, Sequence[Portion]], Iterator[tuple[Portion, Observation]]
]
"""Has portions watched by workers, and yields what they saw."""


@dataclass
class Real:
    """The real clips that were drawn and watched."""

    picks: list[Pick]
    summary: Summary
    floor: Summary
    class_index_N: NDArray
    fps_N: NDArray
    train_picks: list[Pick]
    train_MD: NDArray | None


def watch_real(
    inputs: Inputs, instruments: Instruments, markers: Sequence[Marker], watched: Watched
) -> Real:
    """Watch the real clips, and training clips to find neighbours among."""
    config = inputs.config
    # The account may be of millions of videos: only what a draw looks at becomes objects.
    rows = manifest.read(config.workspace.manifest).select(["id", "clips"]).to_pylist()
    picks, others = draw_real(inputs, markers, rows)
    train = [marker for marker in markers if marker.split == "train"]
    # Any of the training clips; the seed is another one than that of the real clips.
    count = config.num_train if inputs.detector else 0
    train_picks = draw(train, rows, "clips", count, config.seed + 1)
    basis = [instruments.fingerprint, "real"]
    portions = clip_portions("real", markers, picks, basis)
    portions += clip_portions("floor", markers, others, basis)
    portions += clip_portions("train", markers, train_picks, _features_only(inputs))
    sets = {
        "real": Summary("real clips", len(picks), config.chosen.is_splits, config.seed),
        "floor": Summary("other real clips", len(others), 1, config.seed),
    }
    index_N, fps_N = np.full(len(picks), -1), np.zeros(len(picks))
    neighbours: dict[int, NDArray] = {}
    for portion, seen in watched(inputs, instruments, portions):
        indices = np.array(portion.indices)
        if portion.group == "train":
            neighbours |= dict(zip(portion.indices, seen["features"], strict=True))
            continue
        sets[portion.group].add(seen, indices)
        if portion.group == "real":
            index_N[indices], fps_N[indices] = seen["class_index"], seen["fps"]
    train_MD = np.stack([neighbours[i] for i in range(len(train_picks))]) if neighbours else None
    return Real(picks, sets["real"], sets["floor"], index_N, fps_N, train_picks, train_MD)


def _features_only(inputs: Inputs) -> list[Any]:
    return [FORMAT, inputs.detector and inputs.detector.sha256, "train"]


def draw_real(
    inputs: Inputs, markers: Sequence[Marker], rows: Sequence[dict[str, Any]]
) -> tuple[list[Pick], list[Pick]]:
    """Two disjoint sets of real clips: to compare with, and to tell the floor."""
    config, chosen = inputs.config, inputs.config.chosen
    wanted = config.num_real or chosen.num_samples
    split = [m for m in markers if m.keys and chosen.real_split in (m.split, "all")]
    if not split:
        others = sorted({m.split for m in markers if m.keys})
        raise UserError(
            f"no real clips in split {chosen.real_split}: pass --real-split {others[0]}"
        )
    picks = draw(split, rows, chosen.real_draw, 2 * wanted, config.seed)
    return picks[:wanted], picks[wanted:]


def only_rates(config: Evaluate, known_to_model: Sequence[float], real: Real) -> None:
    """`UserError` where a rate is no real clip's, or real clips have rates unknown to the model."""
    known = sorted(set(real.fps_N.tolist()))
    if config.fps == "all":
        new = [rate for rate in known if not np.isclose(rate, known_to_model, rtol=1e-3).any()]
        if new:
            raise UserError(
                f"real clips have {new[0]:g} frames a second, and the model was trained at "
                f"{', '.join(f'{r:g}' for r in known_to_model)}: they do not compare; pass --fps "
                "to compare at common rates only"
            )
        return
    strangers = [rate for rate in parse_rates(config.fps, "all") if rate not in known]
    if strangers:
        raise UserError(
            f"--fps {strangers[0]:g}: real clips have {', '.join(f'{r:g}' for r in known)} frames "
            "a second; motion at other rates does not compare"
        )


def refuse_early(figures: Figures, inputs: Inputs, real: Real) -> None:
    """Say what cannot be measured before hours go into sampling."""
    config, chosen = inputs.config, inputs.config.chosen
    classes = inputs.bundle["classes"]
    missing = [name for i, name in enumerate(classes) if i not in set(real.class_index_N.tolist())]
    if missing:
        reason = (
            f"class {missing[0]!r} is missing from the {len(real.picks)} real clips "
            f"({chosen.real_split}): add --num-real, or take another --real-split"
        )
        for metric in {"fvd", "kvd"} & set(config.wanted):
            figures.refuse(metric, reason)
    if real.summary.gaussian is not None:
        width = len(real.summary.gaussian.mean_D)
        fewest = min(len(real.picks), chosen.num_samples)
        if fewest <= width:
            reason = (
                f"{fewest} clips are too few for the covariance of {width} features: at least "
                f"{width + 1} real clips and samples are needed"
            )
            for metric in {"fvd", "rfvd"} & set(config.wanted):
                figures.refuse(metric, reason)
        elif not real.summary.gaussian.scatter_DD.any():
            reason = (
                f"all {len(real.picks)} real clips have the same features: is the detector "
                f"{config.detector} the right one?"
            )
            for metric in {"fvd", "kvd", "rfvd"} & set(config.wanted):
                figures.refuse(metric, reason)
    if inputs.in_pixels:
        for metric in RECONSTRUCTION & set(config.wanted):
            figures.refuse(metric, "the model works on pixels: nothing is reconstructed")
    if not inputs.classifier and "is" in config.wanted:
        reason = f"{config.detector} gives no class probabilities: pass --classifier"
        figures.not_measured["is"] = reason
