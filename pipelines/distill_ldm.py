"""Distilling: a trained bundle teaches a student that samples in 1, 2 or 4 steps.

ldm/TEACHER ─┬─▶ Ray Train workers ──▶ checkpoints ──▶ ldm/NAME (a bundle)
latents/*.tar┘
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pipelines.io import storage
from pipelines.io.arrays import latent_arrays
from pipelines.io.workspace import require
from pipelines.latents.published import open_latents
from pipelines.training.initial import find_initial, fingerprint_of
from pipelines.training.methods.distil import Teacher, student_of
from pipelines.training.settings import DistillLDM
from pipelines.training.stage import Stage, run_stage
from pipelines.training.trainer import Data
from vqvdm.errors import UserError


def distill_ldm(config: DistillLDM) -> str:
    """Distil ROOT/ldm/LDM on ROOT/latents/VQGAN, and publish ROOT/ldm/NAME."""
    config.check()
    space = config.workspace
    folder = space.ldm(config.ldm)
    bundle = require(folder, "config.json", "train_ldm")
    check_teacher(folder, bundle)
    latents = open_latents(space, config.vqgan)
    if bundle["inputs"]["latents"] != latents.index["fingerprint"]:
        raise UserError(
            f"{folder} was trained on other latents than {latents.folder} "
            f"({bundle['inputs']['latents']}, now {latents.index['fingerprint']}): "
            "pass --vqgan NAME of those, or train the teacher again"
        )
    initial = find_initial(config, "student", space.ldm(config.name))
    if initial:
        initial = initial.for_captions(latents.index.get("text"))
    teacher = {"name": config.ldm, "fingerprint": bundle["fingerprint"]}
    return run_stage(
        Stage(
            name="distill_ldm",
            config=config,
            method=partial(
                student_of, data=latents.index, teacher=Teacher(folder, bundle), initial=initial
            ),
            data=Data(
                latents.folder,
                latents.markers,
                "encode_latents",
                partial(latent_arrays, classes=latents.index["classes"]),
                are_arrays=True,
            ),
            folder=space.ldm(config.name),
            inputs={
                "ldm": bundle["fingerprint"],
                "latents": latents.index["fingerprint"],
                **fingerprint_of(initial),
            },
            lineage=latents.lineage | {"teacher": teacher},
            parts={"vqgan": storage.join(folder, "vqgan")},
            reads=(folder,),
            register=True,
        )
    )


def check_teacher(folder: str, bundle: dict[str, Any]) -> None:
    """`UserError` unless a bundle is a flow on latents, and its weights are there and intact."""
    objective = bundle["objective"]["name"]
    if objective == "average_velocity":
        raise UserError(
            f"{folder} is a student itself: pass --ldm NAME of what it was distilled from"
        )
    if objective != "flow":
        raise UserError(
            f"{folder} was trained with the objective {objective!r}: only `flow` can be distilled; "
            "train one by jobs/train_ldm.py --objective.name flow"
        )
    if "latents" not in bundle["inputs"]:
        raise UserError(f"{folder} was trained on pixels: only models of latents can be distilled")
    uri = storage.join(folder, "model.safetensors")
    if (storage.sha256_or_none(uri) or "")[:16] != bundle["fingerprint"]:
        raise UserError(
            f"{uri} is missing or does not match config.json: run jobs/train_ldm.py --overwrite"
        )
