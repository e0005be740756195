"""The files of a model and of a bundle, wherever it lies: copying them, text encoder included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.io import storage
from vqvdm.errors import UserError
from vqvdm.text_encoder import FOLDER, check_files, files_of, sums_of

MODEL = ("config.json", "model.safetensors")
BUNDLE = (*MODEL, *(f"vqgan/{name}" for name in MODEL))
"""Files that sampling needs, beside the text encoder of a bundle that has one."""


def fetch_encoder(folder: str, place: Path, metadata: Mapping[str, Any]) -> None:
    """Copy the encoder of a bundle, by its config.json, into a local folder; `UserError` where it
    is missing or another one, and nothing where there is none."""
    refuse_lost_encoder(folder, metadata)
    storage.download_folder(folder, place, files_of(metadata))
    for name, sha256 in sums_of(metadata).items():
        if storage.sha256(str(place / FOLDER / name)) != sha256:
            raise UserError(
                f"{storage.join(folder, FOLDER, name)} is not the file that {folder}/config.json "
                f"describes: copy the whole folder again, with {FOLDER}"
            )


def refuse_lost_encoder(folder: str, metadata: Mapping[str, Any]) -> None:
    """`UserError` unless the encoder of a bundle, by its config.json, is whole."""
    if files_of(metadata):
        check_files(folder, metadata, storage.written_below(storage.join(folder, FOLDER)))
