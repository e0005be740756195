"""The weights that a training begins with: `--init-from`.

They are those of a published model, or the average in a checkpoint of a training that has not
ended. They are known by a fingerprint, and every worker reads the same ones.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipelines.io import storage, workspace
from pipelines.training.checkpoints import Checkpoints
from vqvdm.checkpoint import load_state
from vqvdm.errors import UserError

Kind = Literal["vqgan", "ldm", "student"]
CHECKPOINT = re.compile(r"/checkpoints/(step-\d+)\.safetensors$")
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

    @property
    def is_checkpoint(self) -> bool:
        return not self.uri.endswith("/model.safetensors")

    def weights(self) -> dict[str, Tensor]:
        """Tensors by name; `UserError` if they are not there, or others."""
        try:
            with storage.local_copy(self.uri) as path:
                if storage.sha256(path).startswith(self.sha256):
                    if not self.is_checkpoint:
                        return load_file(path)
                    return load_state(Path(path))["method"]["ema"]
        except FileNotFoundError:
            pass
        except (SafetensorError, ValueError) as error:
            raise UserError(f"--init-from: {self.uri} is damaged: {error}") from error
        raise UserError(
            f"--init-from: {self.uri} on {socket.gethostname()} is missing or has changed: pass an "
            "s3:// URI or a folder that all nodes mount, and leave it as it is meanwhile"
        )


def find_initial(uri: str | None, kind: Kind) -> Initial | None:
    """What `--init-from` names: the folder of a model of a kind, or a checkpoint; None for none.

    `UserError` if there is none, or one of another kind.
    """
    if uri is None:
        return None
    place = storage.absolute(uri)
    if step := CHECKPOINT.search(place):
        return _checkpoint(uri, place.removesuffix(step[0]), step[1])
    config = workspace.published(place, "config.json")
    if config is None:
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
    return Initial(storage.join(place, "model.safetensors"), config["fingerprint"], classes)


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
    return Initial(storage.join(folder, f"{name}.safetensors"), marker["sha256"])


def fingerprint_of(initial: Initial | None) -> dict[str, str]:
    """Initial weights among the inputs of a training."""
    return {"initial weights": initial.sha256[:16]} if initial else {}
