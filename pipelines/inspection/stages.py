"""Whether what was trained and encoded belongs to the clips that are there now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipelines.inspection.findings import Finding
from pipelines.io import storage, workspace
from pipelines.io.workspace import Workspace

WEAK = 0.02
"""Standard deviation of a latent channel, as a share of the largest, below which it says
nothing."""


def check_stages(space: Workspace, index: dict[str, Any]) -> list[Finding]:
    """Compare fingerprints along the way of the data; `index` is that of the clips."""
    found: list[Finding] = []
    for name, config in _published(storage.join(space.root, "vqgan"), "config.json"):
        if config.get("inputs", {}).get("clips") != index["fingerprint"]:
            job = f"train_vqgan.py --name {name}"
            found.append(_stale(f"vqgan/{name}", job, "trained on other clips", "note"))
    latents = dict(_published(storage.join(space.root, "latents"), "index.json"))
    for name, config in latents.items():
        if config["clips"] != index["fingerprint"]:
            job = f"encode_latents.py --vqgan {name}"
            found.append(_stale(f"latents/{name}", job, "made from other clips"))
        found += _channels(f"latents/{name}", config)
    for name, config in _published(storage.join(space.root, "ldm"), "config.json"):
        made_from = config.get("inputs", {}).get("latents")
        if made_from and made_from not in {each["fingerprint"] for each in latents.values()}:
            distilled = config["objective"]["name"] == "average_velocity"
            job = f"{'distill_ldm' if distilled else 'train_ldm'}.py --name {name}"
            found.append(_stale(f"ldm/{name}", job, "trained on other latents", "note"))
    return found


def _published(folder: str, file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names in a folder, and their JSON file."""
    folder = folder.rstrip("/")
    depth = len(folder) + 1
    names = {each.uri[depth:].split("/")[0] for each in storage.walk(folder)}
    for name in sorted(names):
        content = workspace.published(storage.join(folder, name), file)
        if isinstance(content, dict):
            yield name, content


def _stale(what: str, job: str, how: str, kind: Any = "odd") -> Finding:
    cure = f"jobs/{job} --overwrite, with its preset, makes it from those that are there now"
    return Finding(kind, f"{what} was {how} than are there now", cure)


def _channels(what: str, index: dict[str, Any]) -> list[Finding]:
    std_C = np.array(index["std"])
    if not np.isfinite(std_C).all():
        return [Finding("wrong", f"{what} holds numbers that are not finite", "train_vqgan again")]
    weak = np.flatnonzero(std_C < WEAK * std_C.max())
    if len(weak):
        words = (
            f"{what}: channel {weak[0]} hardly varies ({std_C[weak[0]]:.2g} of {std_C.max():.2g})"
        )
        return [
            Finding("odd", words, "the tokenizer does not use it: train it longer, or narrower")
        ]
    return []
