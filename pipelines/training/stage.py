"""The course of a training job: refuse or resume, train, export, and say what was made."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import registry, tracking
from pipelines.config.schema import TrainJob
from pipelines.io import storage, workspace
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.methods import Method
from pipelines.training.trainer import Data, Plan, fit, threads_per_worker
from pipelines.training.world import World
from vqvdm.checkpoint import weights_fingerprint
from vqvdm.errors import UserError


@dataclass(frozen=True)
class Stage:
    """One training, from what it reads to where it publishes."""

    name: str
    config: TrainJob
    method: Callable[[Any, World], Method]
    data: Data
    folder: str
    inputs: Mapping[str, str]
    """Fingerprints of what it reads."""
    about: Mapping[str, Any]
    """What `config.json` keeps besides the model: lineage."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Folders copied into the export: name to URI."""
    register: bool = False
    """Whether the export, a bundle, goes into the model registry too."""

    @property
    def recipe(self) -> str:
        return storage.fingerprint([self.config.recipe(), dict(self.inputs)])


def run_stage(stage: Stage) -> str:
    """Train and publish, unless that is done; returns the main figure in words."""
    config = stage.config
    done = workspace.published(stage.folder, "config.json")
    checkpoints = Checkpoints(stage.folder, stage.recipe, config.keep)
    found = done["recipe"] if done else checkpoints.found_recipe()
    if found and not config.overwrite:
        workspace.refuse_other(stage.folder, found, stage.recipe)
    clips = sum(len(marker.keys) for marker in stage.data.markers if marker.split == "train")
    if config.dry_run:
        return f"would train {config.steps} steps on {clips} clips into {stage.folder}"
    if done and found == stage.recipe:
        _verify(stage.folder, done, stage.name)
        return f"{stage.folder} is there already, verified"
    if config.overwrite:
        storage.delete(stage.folder)

    with tracking.run(stage.name, config, stage.inputs) as run:
        fit(
            Plan(
                config,
                stage.method,
                stage.data,
                stage.folder,
                stage.recipe,
                run.uri,
                run.id,
                threads_per_worker(config),
            )
        )
        state = checkpoints.newest()
        assert state is not None and state["step"] == config.steps
        method = stage.method(config, World())
        method.load(state["method"])
        fingerprint = _publish(stage, method, state["validation"])
        run.output(fingerprint)
        run.bytes(_card(stage, state["validation"]).encode(), "MODEL_CARD.md")
        if stage.register:
            print(registry.register(run, config.workspace.root, stage.folder), flush=True)
    figures = ", ".join(f"{name} {value:.3g}" for name, value in state["validation"].items())
    return f"{config.steps} steps, {figures}" if figures else f"{config.steps} steps"


def _verify(folder: str, config: dict[str, Any], job: str) -> None:
    found = storage.sha256(storage.join(folder, "model.safetensors"))[:16]
    if found != config["fingerprint"]:
        raise UserError(
            f"{folder}/model.safetensors does not match config.json: "
            f"run jobs/{job}.py --overwrite to make it again"
        )


def _publish(stage: Stage, method: Method, validation: Mapping[str, float]) -> str:
    """Put the export in its place, `config.json` last; returns the weights' fingerprint."""
    with tempfile.TemporaryDirectory(prefix="vqvdm-") as temporary:
        folder = Path(temporary)
        method.export(folder)
        for name, uri in stage.parts.items():
            storage.download_folder(uri, folder / name, ("model.safetensors", "config.json"))
        (folder / "MODEL_CARD.md").write_text(_card(stage, validation))
        config = json.loads((folder / "config.json").read_text())
        config |= {"recipe": stage.recipe, "inputs": dict(stage.inputs), "about": stage.about}
        config["validation"] = dict(validation)
        (folder / "config.json").write_bytes(storage.json_bytes(config))
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path == folder / "config.json"):
            storage.publish_file(path, storage.join(stage.folder, str(path.relative_to(folder))))
        return weights_fingerprint(folder)


def _card(stage: Stage, validation: Mapping[str, float]) -> str:
    """A model card: what it is, what it was made from, how good it is."""
    config = stage.config
    clips = sum(len(marker.keys) for marker in stage.data.markers if marker.split == "train")
    lines = [
        f"# {stage.folder.rstrip('/').rsplit('/', 2)[-2]}/{stage.folder.rsplit('/', 1)[-1]}",
        "",
        f"Made by `jobs/{stage.name}.py {config.preset}`: {config.steps} steps of "
        f"{config.batch_size} clips, out of {clips} for training.",
        "",
        "| validation | |",
        "|---|---|",
        *[f"| {name} | {value:.4g} |" for name, value in validation.items()],
        "",
        "| made from | fingerprint |",
        "|---|---|",
        *[f"| {name} | `{value}` |" for name, value in stage.inputs.items()],
        "",
        "Settings:",
        "",
        "```json",
        json.dumps(config.recipe(), indent=1),
        "```",
    ]
    return "\n".join(lines) + "\n"
