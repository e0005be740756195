"""The root and its places: where each job publishes, and which job to run if a part is missing."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from typing import Any

from pipelines.io import storage
from pipelines.io.connection import is_local
from vqvdm.errors import UserError, did_you_mean, listed

ID_FILE = "root.json"
NAMED = ("vqgan", "latents", "ldm", "detectors")
"""Folders of what bears a name that the user chose."""
FILLED = ("clips", "perceptual_hashes", "features", "inspection", "samples", "eval", *NAMED)
"""Folders that jobs fill."""
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

    def _named(self, kind: str, name: str) -> str:
        """`UserError` for a name that leads elsewhere, or into what another name stands for."""
        if name in ("", ".", "..") or "/" in name:
            raise UserError(f"{name!r} is no name: it becomes a folder in {self._at(kind)}")
        return self._at(kind, name)

    def vqgan(self, name: str) -> str:
        return self._named("vqgan", name)

    def latents(self, name: str) -> str:
        return self._named("latents", name)

    def ldm(self, name: str) -> str:
        return self._named("ldm", name)

    def samples(self, name: str) -> str:
        return self._named("samples", name)

    @property
    def inspection(self) -> str:
        return self._at("inspection")

    def detector(self, name: str) -> str:
        return self._named("detectors", name)

    @property
    def features(self) -> str:
        return self._at("features")

    def eval(self, name: str) -> str:
        return self._named("eval", name)

    def root_below(self, videos: str) -> str:
        """The root as a listing of a folder of videos names it; empty if it lies elsewhere.

        `UserError` where what jobs make would be taken for videos, or lie among them.
        """
        if place_below(videos, self.root) == ".":
            raise UserError(
                f"--videos and --root are the same, {videos}: pass a --root of its own, as jobs "
                "make folders in it"
            )
        for name in FILLED:
            if place_below(videos, self._at(name)):
                raise UserError(
                    f"--videos {videos} lies in {self._at(name)}, which jobs fill: move the "
                    "videos, or pass another --root"
                )
        below = place_below(self.root, videos)
        return storage.join(videos, below) if below else ""


def place_below(uri: str, folder: str) -> str | None:
    """The path of a place from a folder that it lies in, `.` for the folder itself; None if it lies
    elsewhere. Links of local folders are followed."""
    if is_local(uri) != is_local(folder):
        return None
    if is_local(uri):
        uri, folder = os.path.realpath(uri), os.path.realpath(folder)
    uri, folder = uri.rstrip("/"), folder.rstrip("/")
    if uri == folder:
        return "."
    return uri[len(folder) + 1 :] if uri.startswith(f"{folder}/") else None


def require(folder: str, file: str, job: str) -> Any:
    """The JSON `file` that `job` published in `folder`; `UserError` names the job if missing."""
    uri = storage.join(folder, file)
    try:
        return storage.read_json(uri)
    except (FileNotFoundError, NotADirectoryError):
        hint = named_instead(folder, file)
        cure = f"run jobs/{job}.py with the same --root first"
        raise UserError(f"{uri} is missing: {hint}{cure}") from None
    except GARBLED:
        raise UserError(f"{uri} is not JSON: run jobs/{job}.py again to repair it") from None


def named_instead(folder: str, file: str) -> str:
    """What else is there of the kind of a folder that is missing, in words; nothing if nothing is.

    A place is known by the `file` that is published last in it.
    """
    kinds, _, name = folder.rpartition("/")
    if kinds.rpartition("/")[2] not in NAMED:
        return ""
    ends = f"/{file}"
    below = [each.uri[len(kinds) + 1 :] for each in storage.walk(kinds)]
    there = sorted(each.removesuffix(ends) for each in below if each.endswith(ends))
    there = [each for each in there if "/" not in each]
    return f"{did_you_mean(name, there)}There: {listed(there)}. Or " if there else ""


def published(folder: str, file: str) -> Any | None:
    """The JSON `file` in `folder`, or None if it is not published yet, or is not JSON."""
    try:
        return storage.read_json(storage.join(folder, file))
    except (FileNotFoundError, NotADirectoryError, *GARBLED):
        return None


def refuse_no_training_clips(folder: str, count: int) -> None:
    """`UserError` if of what lies in a folder nothing is for training."""
    if not count:
        raise UserError(
            f"{folder} has no training clips, all are for validation: run jobs/shard_videos.py "
            "with a lower --val-fraction or a shorter --val-list"
        )
