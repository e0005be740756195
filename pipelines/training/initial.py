"""The weights that a training begins with: `--init-from`.

They are those of a published model, or the average in a checkpoint of a training that has not
ended. They are known by a fingerprint, and every worker reads the same ones.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipelines.io import storage, workspace
from pipelines.io.scratch import scratch
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.settings import TrainJob
from vqvdm.checkpoint import as_config, load_state
from vqvdm.diffusion.lora import TEXT, merged_state
from vqvdm.errors import UserError
from vqvdm.tokenizer import kinds
from vqvdm.tokenizer.image_autoencoder import (
    CONFIG,
    WEIGHTS,
    inflated_config,
    read_weights,
    refuse_missing_library,
)
from vqvdm.tokenizer.inflated import InflatedConfig

Kind = Literal["vqgan", "ldm", "student"]
CHECKPOINT = re.compile(r"/checkpoints/(step-\d+)\.safetensors$")
INPUT = "initial weights"
"""Their name among the inputs of a training."""
READS_CAPTIONS = f"{TEXT}.weight"
"""The tensor that knows the text encoder."""
MADE_BY = {"vqgan": "train_vqgan", "ldm": "train_ldm", "student": "distill_ldm"}


@dataclass(frozen=True)
class Initial:
    """Weights in a file, and the classes of their model."""

    uri: str
    """`model.safetensors` of a model, or a checkpoint."""
    sha256: str
    """Of the file, or its beginning."""
    classes: tuple[str, ...] | None = None
    """In order; None where they are not known, as in a checkpoint."""
    bundle: Mapping[str, Any] | None = None
    """Of a denoiser, what describes it in the `config.json` of a bundle; None where that is not
    known."""
    leaves: tuple[str, ...] = ()
    """Tensors that are not taken over."""
    inflated: InflatedConfig | None = None
    """Of a tokenizer out of an image autoencoder, or such an autoencoder, the shape."""

    @property
    def is_checkpoint(self) -> bool:
        return not self.uri.endswith("/model.safetensors")

    def for_captions(self, text: Mapping[str, Any] | None) -> Initial:
        """The same for captions that `text` describes, as an index or a bundle does: what reads
        those of another encoder, or of one that is not known, is left."""
        before = (self.bundle or {}).get("text") or {}
        if text and before.get("files") == text["files"]:
            return self
        return replace(self, leaves=(READS_CAPTIONS,))

    def weights(self) -> dict[str, Tensor]:
        """Tensors by name; `UserError` if they are not there, or others."""
        return {name: each for name, each in self._all().items() if name not in self.leaves}

    def _all(self) -> dict[str, Tensor]:
        try:
            with storage.local_copy(self.uri) as path:
                if storage.sha256(path).startswith(self.sha256):
                    return self._read(path)
        except FileNotFoundError:
            pass
        except (SafetensorError, ValueError) as error:
            raise UserError(f"--init-from: {self.uri} is damaged: {error}") from error
        raise UserError(
            f"--init-from: {self.uri} on {socket.gethostname()} is missing or has changed: pass an "
            "s3:// URI or a folder that all nodes mount, and leave it as it is meanwhile"
        )

    def _read(self, path: str) -> dict[str, Tensor]:
        if not self.is_checkpoint:
            return load_file(path)
        return merged_state(load_state(Path(path))["method"]["ema"])


@dataclass(frozen=True)
class InitialImage(Initial):
    """Weights of an image autoencoder in a folder of `diffusers`; `uri` is that of their file."""

    @property
    def is_checkpoint(self) -> bool:
        return False

    def _read(self, path: str) -> dict[str, Tensor]:
        place = self.uri.removesuffix(f"/{WEIGHTS}")
        with scratch() as folder:
            # The library wants both files in one folder, by their names.
            storage.download_folder(place, folder, [CONFIG])
            (folder / WEIGHTS).symlink_to(path)
            return read_weights(folder, f"--init-from {place}")


def find_initial(config: TrainJob, kind: Kind, folder: str) -> Initial | None:
    """The weights of `--init-from`, which a training into a folder begins with; None for none.

    A training that goes on has no more use for them: they may be gone by then, or be those of
    another training that has gone further, and the flag may be left out.
    """
    before = None if config.overwrite else _recorded(folder)
    if config.init_from is None:
        return before
    try:
        found = find_weights(config.init_from, kind)
    except UserError:
        if before is None:
            raise
        return before
    moves_on = found.is_checkpoint and not CHECKPOINT.search(storage.absolute(config.init_from))
    return before if before and moves_on else found


def _recorded(folder: str) -> Initial | None:
    """What a training that was begun in a folder recorded of the weights that it began with."""
    done = workspace.published(folder, "config.json") or Checkpoints(folder, "", keep=1).found()
    sha256 = (done or {}).get("inputs", {}).get(INPUT)
    return Initial(folder, sha256, inflated=_inflated_in(done)) if sha256 else None


def find_weights(uri: str, kind: Kind) -> Initial:
    """The weights in the folder of a model of a kind, or in a checkpoint; `UserError` if there are
    none, or those of another kind."""
    place = storage.absolute(uri)
    if step := CHECKPOINT.search(place):
        return _checkpoint(uri, place.removesuffix(step[0]), step[1])
    config = workspace.published(place, "config.json")
    if image := _image(uri, place, config):
        if kind != "vqgan":
            raise UserError(
                f"--init-from {uri} is an image autoencoder, which jobs/train_vqgan.py begins "
                f"with: pass what jobs/{MADE_BY[kind]}.py made"
            )
        return image
    if config is None or "fingerprint" not in config:
        newest = Checkpoints(place, "", keep=1).newest_step()
        if newest is None:
            raise UserError(
                f"--init-from {uri} holds no model: pass the folder of one that "
                f"jobs/{MADE_BY[kind]}.py published, or one of its checkpoints"
            )
        return _checkpoint(uri, place, f"step-{newest:08d}")
    found = kind_of(config)
    if found != kind:
        raise UserError(
            f"--init-from {uri} was made by jobs/{MADE_BY[found]}.py: pass what "
            f"jobs/{MADE_BY[kind]}.py made"
        )
    classes = tuple(config["classes"]) if "classes" in config else None
    bundle = None if kind == "vqgan" else config
    weights = storage.join(place, "model.safetensors")
    inflated = _inflated_in(config)
    return Initial(weights, config["fingerprint"], classes, bundle, inflated=inflated)


def _image(uri: str, place: str, config: Any) -> InitialImage | None:
    """The image autoencoder in a folder, or in that of a pipeline; None if there is none.
    `UserError` for one that cannot be taken."""
    if config is None and workspace.published(place, "model_index.json"):
        place = storage.join(place, "vae")
        config = workspace.published(place, CONFIG)
    if config is None or "_class_name" not in config:
        return None
    refuse_missing_library()
    inflated = inflated_config(config, f"--init-from {uri}")
    weights = storage.join(place, WEIGHTS)
    if not storage.exists(weights):
        raise UserError(
            f"--init-from {uri}: {weights} is missing; weights in pickles (.bin) are not loaded: "
            "save them by save_pretrained of diffusers, or fetch the file of that name"
        )
    return InitialImage(weights, storage.sha256(weights), inflated=inflated)


def _inflated_in(found: Mapping[str, Any] | None) -> InflatedConfig | None:
    """The shape of a tokenizer out of an image autoencoder, by its config.json or the marker of a
    checkpoint; None of other nets."""
    if found and "tokenizer" in found:
        config = kinds.read_config(found)
        return config if isinstance(config, InflatedConfig) else None
    fields = (found or {}).get("settings", {}).get("inflated")
    return as_config(InflatedConfig, fields) if fields else None


def kind_of(config: Mapping[str, Any]) -> Kind:
    """What a published `config.json` describes."""
    if "objective" not in config:
        return "vqgan"
    return "student" if config["objective"]["name"] == "average_velocity" else "ldm"


def _checkpoint(uri: str, place: str, name: str) -> Initial:
    folder = storage.join(place, "checkpoints")
    marker = workspace.published(folder, f"{name}.json")
    if marker is None:
        raise UserError(f"--init-from {uri}: {folder}/{name}.json is missing: pass another step")
    uri = storage.join(folder, f"{name}.safetensors")
    bundle, inflated = _as_bundle(marker.get("settings", {})), _inflated_in(marker)
    return Initial(uri, marker["sha256"], bundle=bundle, inflated=inflated)


def _as_bundle(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of `train_ldm` in the words of a bundle; None for those of another job."""
    if "objective" not in settings:
        return None
    # Defaults that came later are left out of settings.
    net = settings.get("dit", {}) if settings.get("denoiser") == "dit" else settings["model"]
    return {**settings, "model": net}


def begins_within(uri: str | None, folder: str) -> bool:
    """Whether `--init-from` names a folder, or what lies in it."""
    return uri is not None and workspace.place_below(storage.absolute(uri), folder) is not None


def fingerprint_of(initial: Initial | None) -> dict[str, str]:
    """Initial weights among the inputs of a training."""
    return {INPUT: initial.sha256[:16]} if initial else {}
