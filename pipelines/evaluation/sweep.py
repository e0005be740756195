"""Sampling settings side by side, and the best of them by FVD on held-out clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from pipelines.cluster.placement import choose_devices, describe_devices
from pipelines.evaluation.estimates import Estimate
from pipelines.evaluation.inputs import find_inputs
from pipelines.evaluation.measure import fvd_by
from pipelines.evaluation.settings import Evaluate
from pipelines.io import checksums, lock, storage
from pipelines.io.workspace import require
from pipelines.tracking.start import start_run
from vqvdm.diffusion.average_velocity import grids
from vqvdm.errors import UserError

VALUES: dict[str, Sequence[Any]] = {
    "guidance": (1.0, 1.5, 2.0, 3.0, 4.0),
    # Kynkäänniemi et al., 2024 (arXiv:2404.07724): guidance harms at high noise, and is of no use
    # at low.
    "interval": ((0.0, 1.0), (0.0, 0.8), (0.2, 1.0), (0.2, 0.8)),
    "steps": (5, 10, 20, 50, 100),
}
FIELDS = {"guidance": "guidance", "interval": "guidance_interval", "steps": "steps"}
"""Settings of `Evaluate` by the words of `--sweep`."""


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, and their FVD."""

    guidance: float
    guidance_interval: tuple[float, float]
    steps: int
    fvd: Estimate
    clips: int
    """Real clips that it was measured on."""

    @property
    def flags(self) -> str:
        """As `sample` and `evaluate` take them."""
        low, high = self.guidance_interval
        return (
            f"--guidance {self.guidance:g} --guidance-interval {low:g} {high:g} "
            f"--steps {self.steps}"
        )

    @property
    def words(self) -> str:
        interval = "" if self.fvd.interval is None else f" ± {self.fvd.interval:.3g}"
        return f"{self.flags}: FVD {self.fvd.mean:.3g}{interval}"


def candidates(config: Evaluate, student_of: int | None = None) -> list[Evaluate]:
    """The settings to try, each once: all values of what `--sweep` names, the rest as given; of a
    student the numbers of steps that it was taught, up to `student_of`.

    Only FVD is measured, and on held-out clips unless others are named. Without guidance its
    interval does not matter.
    """
    names = config.swept
    choices = VALUES | ({"steps": grids(student_of)} if student_of else {})
    found: dict[tuple[Any, ...], Evaluate] = {}
    for values in product(*(choices[name] for name in names)):
        changes = dict(zip((FIELDS[name] for name in names), values, strict=True))
        changes |= {"real_split": config.real_split or "val", "sweep": ""}
        each = replace(config, **changes, metrics="fvd", num_train=0)
        interval = each.guidance_interval if each.guidance != 1 else None
        found.setdefault((each.guidance, interval, each.steps), each)
    return list(found.values())


def best(trials: Sequence[Trial]) -> tuple[Trial, int]:
    """The trial of the lowest FVD, and how many others are not significantly higher."""
    first = min(trials, key=lambda trial: trial.fvd.mean)

    def reaches(trial: Trial) -> bool:
        slack = (trial.fvd.interval or 0.0) + (first.fvd.interval or 0.0)
        return trial.fvd.mean - first.fvd.mean <= slack

    return first, sum(map(reaches, trials)) - 1


def run(config: Evaluate) -> str:
    """Measure ROOT/ldm/NAME by several settings, and publish ROOT/eval/NAME/sweep.json.

    What all are compared with is extracted once. All features are kept: a sweep that was killed
    resumes where it stopped.
    """
    space = config.workspace
    bundle = require(space.ldm(config.ldm), "config.json", "train_ldm")
    student_of = bundle["objective"].get("intervals")
    if student_of and config.swept != ("steps",):
        raise UserError(
            f"{space.ldm(config.ldm)} is a student with its guidance built in: only --sweep steps"
        )
    first, *others = candidates(config, student_of)
    inputs = find_inputs(first)
    inputs.tell_notes()
    # Only settings of sampling differ: files are read, and detectors found, once.
    tried = [inputs.config, *(each.for_model(bundle) for each in others)]
    folder = space.eval(config.ldm)
    if config.dry_run:
        print(describe_devices(config.request()))
        return f"would sample by {len(tried)} settings, into {folder}/sweep.json"
    lineage = {"ldm": bundle["fingerprint"], "clips": inputs.index["fingerprint"]}
    reading = lock.reading("evaluate", space.clips, space.ldm(config.ldm))
    run_of_job = start_run("evaluate", config, lineage)
    with reading, lock.writing(folder, "evaluate") as owner, run_of_job as tracked:
        inputs = replace(inputs, owner=owner)
        devices, trials = choose_devices(config.request()), []
        measure = fvd_by(inputs, devices)
        for each in tried:
            trials.append(_trial(each, *measure(replace(inputs, config=each))))
            print(trials[-1].words, flush=True)
        chosen, alike = best(trials)
        found: dict[str, Any] = {
            "trials": [asdict(trial) for trial in trials],
            "chosen": asdict(chosen),
        }
        found |= {"alike": alike, "detector": config.detector}
        lock.refuse_taken(folder)
        storage.publish_json(found, storage.join(folder, "sweep.json"))
        tracked.bytes(checksums.json_bytes(found), "sweep.json")
    return verdict(trials, config.detector, tried[0].real_split or "val")


def _trial(config: Evaluate, fvd: Estimate, clips: int) -> Trial:
    assert config.steps is not None  # resolved for this bundle
    return Trial(config.guidance, config.guidance_interval, config.steps, fvd, clips)


def verdict(trials: Sequence[Trial], detector: str, split: str) -> str:
    """What was chosen, by what, in words."""
    chosen, alike = best(trials)
    others = f"; {alike} of them not significantly different" if alike else ""
    return (
        f"{chosen.words} by {detector} on {chosen.clips} clips ({split}), the lowest of "
        f"{len(trials)}{others}. The settings were selected on these clips: evaluate on others for "
        "an unbiased figure"
    )
