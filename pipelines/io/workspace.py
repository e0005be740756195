"""The root and its places: where each job publishes, and which job to run if a part is missing."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from pipelines.io import storage
from vqvdm.errors import UserError

ID_FILE = "root.json"
GARBLED = (json.JSONDecodeError, UnicodeDecodeError)
"""Errors of reading a file that is not JSON."""


@dataclass(frozen=True)
class Workspace:
    """Every place below a root, which is a directory or a URI."""

    root: str

    def _at(self, *parts: str) -> str:
        return storage.join(self.root, *parts)

    @property
    def id(self) -> str:
        """The root's own id, in a file that moves with it; made when it is first asked for."""
        known = published(self.root, ID_FILE)
        if known is None:
            made = {"id": secrets.token_hex(8)}
            storage.publish_json(made, self._at(ID_FILE), check=False)
            # Of two jobs that make one at the same time, the last one's counts.
            known = storage.read_json(self._at(ID_FILE))
        return known["id"]

    @property
    def videos(self) -> str:
        return self._at("videos")

    @property
    def manifest(self) -> str:
        return self._at("videos.parquet")

    @property
    def clips(self) -> str:
        return self._at("clips")

    @property
    def perceptual_hashes(self) -> str:
        return self._at("perceptual_hashes")

    def vqgan(self, name: str) -> str:
        return self._at("vqgan", name)

    def latents(self, name: str) -> str:
        return self._at("latents", name)

    def ldm(self, name: str) -> str:
        return self._at("ldm", name)

    def samples(self, name: str) -> str:
        return self._at("samples", name)

    def detector(self, name: str) -> str:
        return self._at("detectors", name)

    @property
    def features(self) -> str:
        return self._at("features")

    def eval(self, name: str) -> str:
        return self._at("eval", name)


def require(folder: str, file: str, job: str) -> Any:
    """The JSON `file` that `job` published in `folder`; `UserError` names the job if missing."""
    uri = storage.join(folder, file)
    try:
        return storage.read_json(uri)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{uri} is missing: run jobs/{job}.py with the same --root first") from None
    except GARBLED:
        raise UserError(f"{uri} is not JSON: run jobs/{job}.py again to repair it") from None


def published(folder: str, file: str) -> Any | None:
    """The JSON `file` in `folder`, or None if it is not published yet, or is not JSON."""
    try:
        return storage.read_json(storage.join(folder, file))
    except (FileNotFoundError, NotADirectoryError, *GARBLED):
        return None


def refuse_other(folder: str, found: str, wanted: str) -> None:
    """`UserError` if `folder` was filled by a run with other settings."""
    if found != wanted:
        raise UserError(
            f"{folder} was filled with other settings ({found}, now {wanted}): "
            "pass --overwrite to replace it, or another --root or --name"
        )
