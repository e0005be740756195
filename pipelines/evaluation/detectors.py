"""Finding a detector and its file by a name or URI.

    builtin | i3d | c3d | NAME of jobs/train_detector.py | URI of a TorchScript file

A URI may end in `#sha256=…`: the file is then refused unless it has that checksum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pipelines.io import storage
from pipelines.io.workspace import Workspace, named_instead, published
from vqvdm.errors import UserError
from vqvdm.metrics.builtin import builtin_detector
from vqvdm.metrics.detectors import I3D_SHA256, Detector, load_detector

PUBLISHED = {"i3d": "i3d_torchscript.pt", "c3d": "c3d_ucf101.pt"}
SHA256 = {"i3d": I3D_SHA256}
"""Known checksums of published files: only a file with this checksum gets the short name."""
DESCRIPTIONS = {
    "builtin": "TransNet V2's first layers: not comparable with published figures",
    "i3d": "I3D, Kinetics-400 logits: the detector of published FVD and KVD",
    "c3d": "C3D, Sports-1M then UCF-101: the classifier of published inception scores",
}


@dataclass(frozen=True)
class DetectorFile:
    """A detector that was found; `uri` is None for the built-in one."""

    name: str
    uri: str | None
    sha256: str
    classes: tuple[str, ...] | None = None
    """Classes of a detector trained here; None where they are not known."""

    @property
    def description(self) -> str:
        for short, sha256 in SHA256.items():
            if self.name == PUBLISHED[short].removesuffix(".pt"):
                return f"not the published {PUBLISHED[short]}, whose sha256 is {sha256}"
        own = "trained on clips of this data: compares with figures of the same detector only"
        return DESCRIPTIONS.get(self.name, own if self.classes else "a detector of the user's own")

    def load(self, device: torch.device | str = "cpu") -> Detector:
        """Load the detector; `UserError` if its file is the wrong one."""
        if self.uri is None:
            return builtin_detector(device)
        with storage.copy_on_any_node(self.uri, "--detector or --classifier") as path:
            return load_detector(path, self.name, self.sha256, device)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "file": self.uri,
            "sha256": self.sha256,
            "about": self.description,
        }


def find_detector(text: str, space: Workspace) -> DetectorFile:
    """What `--detector` or `--classifier` names; `UserError` names a missing file and its place."""
    if text == "builtin":
        return DetectorFile("builtin", None, builtin_detector().sha256)
    uri, _, fragment = text.partition("#sha256=")
    if uri in PUBLISHED:
        place = storage.join(space.root, "detectors", PUBLISHED[uri])
        return _checked(
            uri,
            place,
            fragment,
            f"{place} is missing: download {PUBLISHED[uri]} once (docs/evaluation.md names the "
            "source) and put it there, or pass its URI, or builtin",
        )
    if "/" not in uri and not uri.endswith(".pt"):
        folder = space.detector(uri)
        metadata = published(folder, "config.json")
        if metadata is None:
            hint = named_instead(folder, "config.json")
            raise UserError(
                f"no detector {uri!r} in {folder}: {hint}run jobs/train_detector.py --name {uri}, "
                "or pass builtin, i3d, c3d or the URI of a TorchScript file"
            )
        place = storage.join(folder, "detector.pt")
        cure = f"{place} is missing: run jobs/train_detector.py --name {uri} --overwrite"
        found = _checked(uri, place, fragment or metadata["sha256"], cure)
        return DetectorFile(uri, place, found.sha256, tuple(metadata["classes"]))
    place = storage.absolute(uri)
    name = place.rsplit("/", 1)[-1].removesuffix(".pt")
    known = {file.removesuffix(".pt"): short for short, file in PUBLISHED.items()}
    return _checked(known.get(name, name), place, fragment, f"{place} is missing: check --detector")


def _checked(name: str, uri: str, expected: str, missing: str) -> DetectorFile:
    try:
        with storage.local_copy(uri) as path:
            found = load_detector(path, name, expected or None)
    except FileNotFoundError:
        raise UserError(missing) from None
    return DetectorFile(_by_checksum(name, found.sha256), uri, found.sha256)


def _by_checksum(name: str, sha256: str) -> str:
    """The short name if the checksum is that of a published file; else the file's own name."""
    for short, expected in SHA256.items():
        if sha256 == expected:
            return short
    return PUBLISHED[name].removesuffix(".pt") if name in SHA256 else name
