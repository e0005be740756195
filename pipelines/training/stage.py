"""The steps of a training job: refuse or resume, train, export, and report."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.cluster.placement import choose_devices, device_to_try, foresee_devices
from pipelines.io import checksums, lock, other_settings, shards, storage, workspace
from pipelines.io.bundles import MODEL, fetch_encoder
from pipelines.tracking import registry
from pipelines.tracking.start import start_run
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.foresight import foreseen
from pipelines.training.initial import begins_within
from pipelines.training.methods.base import Method
from pipelines.training.settings import TrainJob
from pipelines.training.trainer import Data, Plan, fit
from pipelines.training.world import World
from vqvdm.checkpoint import weights_fingerprint
from vqvdm.errors import StoppedError, UserError

FILES = re.compile(
    rf"config\.json|model\.safetensors|MODEL_CARD\.md|{lock.FILES}"
    r"|(checkpoints|keys|vqgan|text_encoder|adapter)/[^/]+"
)
"""Names of all files that trainings write into the folder of a model: overwriting deletes them."""


@dataclass(frozen=True)
class Stage:
    """One training, from its inputs to the folder it publishes."""

    name: str
    config: TrainJob
    method: Callable[[Any, World], Method]
    """Makes the method from config and world."""
    data: Data
    folder: str
    inputs: Mapping[str, str]
    """Fingerprints of its inputs."""
    lineage: Mapping[str, Any]
    """Further metadata in `config.json`, under `about`."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Folders copied into the export: name to URI."""
    reads: Sequence[str] = ()
    """Further folders that the training reads."""
    register: bool = False
    """Whether to add the export, a bundle, to the model registry too."""

    @property
    def clips(self) -> str:
        """What there is for training, in words."""
        both = " and mirror images" if "augment" in self.lineage else ""
        return f"{self.data.samples} clips{both}"

    @property
    def recipe(self) -> str:
        """The fingerprint that has always been recorded. It depends on what may change."""
        return self._recipe_of(self.config.steps)

    def _recipe_of(self, steps: int) -> str:
        config = self.config
        often = {"validate_every": config.validate_every}
        often |= {"checkpoint_every": config.checkpoint_every, "steps": steps}
        return checksums.fingerprint([config.recipe() | often, dict(self.inputs)])

    @property
    def identity(self) -> dict[str, Any]:
        """What is recorded besides: what may not change when a training resumes, with its
        fingerprint, and the steps, which may."""
        lasting = {k: v for k, v in self.config.recipe().items() if k != "steps"}
        training = self._training_of(lasting)
        return {"training": training, "steps": self.config.steps, "settings": lasting}

    def _training_of(self, lasting: Mapping[str, Any]) -> str:
        return checksums.fingerprint([lasting, dict(self.inputs)])

    def _is_same(self, found: Mapping[str, Any]) -> bool:
        """Whether `found` is of this training. Earlier versions recorded the path of the file of a
        perceptual loss, whose sum is among the inputs."""
        lasting = self.identity["settings"]
        if lasting.get("perceptual"):
            before = found.get("settings", {}).get("perceptual", lasting["perceptual"])
            if found["training"] == self._training_of(lasting | {"perceptual": before}):
                return True
        return found["training"] == self._training_of(lasting)

    def steps_of(self, found: Mapping[str, Any], reached: int) -> int | None:
        """Steps that the training which left `found` was to do; None if it was another training.

        `reached` is the step of its newest checkpoint. What was recorded before trainings could
        be prolonged is known by the fingerprint of all settings.
        """
        if "training" in found:
            return found["steps"] if self._is_same(found) else None
        known = (self.config.steps, reached)
        return next((n for n in known if self._recipe_of(n) == found["recipe"]), None)


def run_stage(stage: Stage) -> str:
    """Train and publish, unless that is done; returns the main figure in words."""
    workspace.refuse_no_training_clips(stage.data.folder, stage.data.samples)
    config = stage.config.for_clips(stage.data.samples)
    stage, asked = replace(stage, config=config), stage.config.steps
    config = stage.config
    if begins_within(config.init_from, stage.folder):
        raise UserError(
            f"--init-from {config.init_from} lies in {stage.folder}, which is to be written: pass "
            "another --name"
        )
    if not asked:
        print(f"{config.steps} steps: what suits {stage.clips} (--steps sets them)", flush=True)
    done = workspace.published(stage.folder, "config.json")
    checkpoints = Checkpoints(stage.folder, stage.recipe, config.keep)
    reached = checkpoints.newest_step() or 0
    found = done or checkpoints.found()
    before = stage.steps_of(found, reached) if found else None
    if found and not config.overwrite:
        if before is None:
            _refuse_other(stage, found)
        else:
            _refuse_fewer(stage, before, max(reached, before if done else 0), bool(done))
    if config.dry_run:
        devices = foresee_devices(config.request())
        print(devices.words, flush=True)
        if device := device_to_try(devices):
            words = foreseen(config, stage.method, stage.data, devices.workers, device)
            print(words, flush=True)
        return f"would train {config.steps} steps on {stage.clips} into {stage.folder}"
    same = before == config.steps
    if done and same:
        if _is_intact(stage.folder, done):
            return f"{stage.folder} is there already, verified"
        if not config.overwrite:
            raise UserError(
                f"{stage.folder}/model.safetensors does not match config.json: "
                f"run jobs/{stage.name}.py --overwrite to make it again"
            )
    shards.refuse_lost(stage.data.folder, stage.data.markers, stage.data.job)
    reading = lock.reading(stage.name, stage.data.folder, *stage.parts.values(), *stage.reads)
    with reading, lock.writing(stage.folder, stage.name) as owner:
        # An unfinished training of the same recipe is resumed, even with --overwrite.
        from_scratch = config.overwrite and bool(done or not same)
        return _train_and_publish(stage, checkpoints, owner, from_scratch)


def _refuse_fewer(stage: Stage, before: int, reached: int, done: bool) -> None:
    """`UserError` if a training of `before` steps cannot resume to the steps of the settings."""
    steps = stage.config.steps
    if steps == before:
        return
    if steps < reached:
        raise UserError(
            f"--steps {steps} is less than the {reached} that {stage.folder} has been trained: "
            "pass at least as many to resume, or --overwrite to train from scratch"
        )
    if done and not Checkpoints(stage.folder, stage.recipe, stage.config.keep).found():
        raise UserError(
            f"{stage.folder} was trained {before} steps, and has no checkpoint to resume from: "
            "pass --overwrite to train from scratch, or another --name"
        )


def _refuse_other(stage: Stage, found: Mapping[str, Any]) -> None:
    """`UserError` names the input or the settings by which another training filled the folder."""
    before = found.get("inputs", {})
    for what, fingerprint in stage.inputs.items():
        if before.get(what, fingerprint) != fingerprint:
            raise UserError(
                f"the {what} have changed since {stage.folder} was trained on them "
                f"({before[what]}, now {fingerprint}): pass --overwrite to train on the new ones, "
                "or another --name"
            )
    settings = found.get("settings")
    differing = other_settings.changed(settings, stage.identity["settings"]) if settings else ""
    other_settings.refuse_other(stage.folder, found["recipe"], stage.recipe, differing, "--name")


def _train_and_publish(
    stage: Stage, checkpoints: Checkpoints, owner: str, from_scratch: bool
) -> str:
    """Train under the lock of `owner`, `from_scratch` after all that is there is deleted; returns
    the main figure in words."""
    config = stage.config
    devices = choose_devices(config.request())
    config.check_share(devices.workers)
    with start_run(stage.name, config, stage.inputs) as run:
        if from_scratch:
            # Not before it is known that there is something to train on.
            lock.refuse_taken(stage.folder)
            storage.keep_only(stage.folder, [lock.NAME], FILES)
        fit(
            Plan(
                config,
                stage.method,
                stage.data,
                stage.folder,
                stage.recipe,
                run.uri,
                run.id,
                devices,
                stage.inputs,
                owner,
                sys.stdout.isatty(),
                identity=stage.identity,
            )
        )
        state = checkpoints.newest()
        step = state["step"] if state else 0
        if state is None or step < config.steps:
            raise StoppedError(f"stopped at step {step} of {config.steps}, which is saved")
        method = stage.method(config, World())
        method.load(state["method"])
        fingerprint = _publish(stage, method, state["validation"])
        run.output(fingerprint)
        run.bytes(_card(stage, state["validation"]).encode(), "MODEL_CARD.md")
        if stage.register:
            root, folder = config.workspace.root, stage.folder
            run.upload(
                "the registration of the model",
                lambda: print(registry.register(run, root, folder), flush=True),
            )
    figures = ", ".join(f"{name} {value:.3g}" for name, value in state["validation"].items())
    return f"{config.steps} steps, {figures}" if figures else f"{config.steps} steps"


def _is_intact(folder: str, config: dict[str, Any]) -> bool:
    """Whether the published weights are those recorded in `config.json`."""
    found = storage.sha256_or_none(storage.join(folder, "model.safetensors")) or ""
    return found[:16] == config["fingerprint"]


def _publish(stage: Stage, method: Method, validation: Mapping[str, float]) -> str:
    """Publish the export, `config.json` last; returns the weights' fingerprint."""
    with tempfile.TemporaryDirectory(prefix="vqvdm-") as temporary:
        folder = Path(temporary)
        method.export(folder)
        for name, uri in stage.parts.items():
            storage.download_folder(uri, folder / name, MODEL)
        (folder / "MODEL_CARD.md").write_text(_card(stage, validation))
        config = json.loads((folder / "config.json").read_text())
        # The encoder of captions lies beside the latents as it does in a bundle.
        fetch_encoder(stage.data.folder, folder, config)
        config |= stage.identity
        config |= {"recipe": stage.recipe, "inputs": dict(stage.inputs), "about": stage.lineage}
        config["validation"] = dict(validation)
        (folder / "config.json").write_bytes(checksums.json_bytes(config))
        files = [path for path in folder.rglob("*") if path.is_file()]
        lock.refuse_taken(stage.folder)
        for path in sorted(files, key=lambda path: path == folder / "config.json"):
            name = path.relative_to(folder).as_posix()
            assert FILES.fullmatch(name), name  # Or it would outlive what it belongs to.
            storage.publish_file(path, storage.join(stage.folder, name))
        return weights_fingerprint(folder)


def _card(stage: Stage, validation: Mapping[str, float]) -> str:
    """A model card: what it is, what it was made from, how good it is."""
    config = stage.config
    lines = [
        f"# {stage.folder.rstrip('/').rsplit('/', 2)[-2]}/{stage.folder.rsplit('/', 1)[-1]}",
        "",
        f"Made by `jobs/{stage.name}.py {config.preset}`: {config.steps} steps of "
        f"{config.batch_size} clips, out of {stage.clips} for training.",
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
