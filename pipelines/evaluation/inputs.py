"""The inputs of an evaluation, found and checked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.demo.settings import DIGITS
from pipelines.evaluation.detectors import DetectorFile, find_detector
from pipelines.evaluation.features import FORMAT
from pipelines.evaluation.settings import Evaluate
from pipelines.io import checksums, storage
from pipelines.io.bundles import BUNDLE, refuse_lost_encoder
from pipelines.io.workspace import require
from pipelines.sharding import manifest
from vqvdm.errors import UserError, listed
from vqvdm.text_encoder import refuse_missing_library
from vqvdm.tokenizer.pixels import PIXELS
from vqvdm.video_shapes import VideoShapes


@dataclass(frozen=True)
class Inputs:
    """The inputs of an evaluation, found and checked before anything is computed."""

    config: Evaluate
    """The settings, with the steps that this bundle is sampled in."""
    bundle: dict[str, Any]
    index: dict[str, Any]
    model: str
    """Fingerprint of all files of the bundle."""
    tokenizer: str
    """Fingerprint of its tokenizer's files."""
    in_pixels: bool
    """Whether the model works on pixels, so that there is no tokenizer to measure."""
    detector: DetectorFile | None
    classifier: DetectorFile | None
    lpips: DetectorFile | None
    captions: str | None = None
    """The column of `videos.parquet` whose texts samples are told; None if they are told none."""
    owner: str | None = None
    """Id of the holder of the lock of `folder`, which workers have to see."""

    @property
    def folder(self) -> str:
        """Where the evaluation is published."""
        return self.config.workspace.eval(self.config.ldm)

    @property
    def shows_digits(self) -> bool:
        """Whether the clips are the demo's: one bright object each, on a dark ground."""
        return set(self.bundle["classes"]) == set(DIGITS)

    @cached_property
    def feature_width(self) -> int:
        """Features that the detector gives of a clip; 0 without one."""
        if self.detector is None:
            return 0
        return self.detector.load().features(_black(self.index["spec"])).shape[1]

    @property
    def doubt(self) -> str | None:
        """Words on clips that changed since the model was trained; None if they did not."""
        trained_on = self.bundle.get("about", {}).get("clips")
        if trained_on in (None, self.index["fingerprint"]):
            return None
        return (
            f"ldm/{self.config.ldm} was trained on other clips than are there now: its training "
            "set may include clips that are now held out, so the figures may be too good"
        )

    @property
    def misses_captions(self) -> str | None:
        """Words on a model that takes captions, and videos that have none; None otherwise."""
        if self.captions or "text" not in self.bundle:
            return None
        return (
            "samples are told their classes alone: no video has a text in the column "
            f"{self.bundle['text']['column']!r}, from which the model learned captions"
        )

    def tell_notes(self) -> None:
        """Print what is to be known of figures before they are there."""
        for note in filter(None, (self.doubt, self.misses_captions)):
            print(f"note: {note}", flush=True)

    @property
    def trained_on_mirror_images(self) -> bool:
        """Whether the model has seen the mirror image of each training clip too."""
        return self.bundle.get("about", {}).get("augment") == "mirror"

    @property
    def recipe(self) -> str:
        files = (self.detector, self.classifier, self.lpips)
        parts = [file and file.sha256 for file in files]
        made_from = [self.model, self.index["fingerprint"]]
        made_from += [f"captions {self.captions}"] if self.captions else []
        # Once real clips of all rates were compared with, whatever --fps said.
        made_from += ["real clips of these rates"] if self.config.rates else []
        return checksums.fingerprint([FORMAT, self.config.recipe(), parts, made_from])


def find_inputs(config: Evaluate) -> Inputs:
    """Find and check all inputs; `UserError` if one is missing or they do not match."""
    space, wanted = config.workspace, config.wanted
    index = require(space.clips, "index.json", "shard_videos")
    bundle = require(space.ldm(config.ldm), "config.json", "train_ldm")
    if bundle["classes"] != index["classes"]:
        raise UserError(
            f"{space.ldm(config.ldm)} has other classes than the clips "
            f"({_differing(bundle['classes'], index['classes'])}): train it again on these clips, "
            "under another --name"
        )
    vqgan = require(storage.join(space.ldm(config.ldm), "vqgan"), "config.json", "train_ldm")
    made, spec = VideoShapes.read(bundle, vqgan).trained, index["spec"]
    if made != (spec["frames"], spec["size"], spec["size"]):
        raise UserError(
            f"the model makes videos of {'×'.join(map(str, made))}, the clips are of "
            f"{spec['frames']}×{spec['size']}×{spec['size']}: they are not comparable; "
            "cut clips with the settings of the model's"
        )
    detector = classifier = lpips = None
    if {"fvd", "kvd", "rfvd"} & set(wanted):
        detector = find_detector(config.detector, space)
    if "is" in wanted:
        classifier = _classifier(config, detector, spec)
    if config.lpips and "lpips" in wanted:
        lpips = find_detector(config.lpips, space)
    in_pixels = vqgan["model"] == PIXELS
    files = _checksums(space.ldm(config.ldm))
    tokenizer = {name: sha256 for name, sha256 in files.items() if name.startswith("vqgan/")}
    model, tokens = checksums.fingerprint(files), checksums.fingerprint(tokenizer)
    config = config.for_model(bundle)
    captions = _captions(config, bundle)
    return Inputs(
        config, bundle, index, model, tokens, in_pixels, detector, classifier, lpips, captions
    )


def _captions(config: Evaluate, bundle: dict[str, Any]) -> str | None:
    """The column with what samples of a model are told; None if it takes no captions or no video
    has any. `UserError` where nothing can encode them."""
    space = config.workspace
    if "text" not in bundle or not manifest.has_texts(space.manifest, bundle["text"]["column"]):
        return None
    refuse_missing_library()
    refuse_lost_encoder(space.ldm(config.ldm), bundle)
    return bundle["text"]["column"]


def _differing(of_model: list[str], of_clips: list[str]) -> str:
    """Classes that only one of both has, a few of many."""
    found = []
    for words, these, others in (
        ("only the model's", of_model, of_clips),
        ("only the clips'", of_clips, of_model),
    ):
        names = [name for name in these if name not in others]
        if names:
            found.append(f"{words}: {listed(names, 5)}")
    return "; ".join(found) or "in another order"


def _checksums(folder: str) -> dict[str, str]:
    """The sha256 of each file of a bundle; `UserError` names one that is missing."""
    found = {}
    for name in BUNDLE:
        uri = storage.join(folder, name)
        try:
            found[name] = storage.sha256(uri)
        except FileNotFoundError:
            raise UserError(f"{uri} is missing: run jobs/train_ldm.py again") from None
    return found


def _classifier(
    config: Evaluate, detector: DetectorFile | None, spec: dict[str, Any]
) -> DetectorFile | None:
    """The named classifier, or else the detector if it gives class probabilities."""
    if config.classifier:
        return find_detector(config.classifier, config.workspace)
    if config.detector != "builtin":
        implied = detector or find_detector(config.detector, config.workspace)
        if _gives_probabilities(implied, spec):
            return implied
    if config.metrics != "all":
        raise UserError(
            f"is needs class probabilities, which {config.detector} does not give: pass "
            "--classifier c3d, or the NAME of a detector made by jobs/train_detector.py"
        )
    return None


def _gives_probabilities(detector: DetectorFile, spec: dict[str, Any]) -> bool:
    """Whether a detector classifies a black clip of the size of the real ones."""
    try:
        detector.load().probabilities(_black(spec))
    except UserError:
        return False
    return True


def _black(spec: dict[str, Any]) -> NDArray[np.uint8]:
    """A black clip (1, T, H, W, 3) of the size of the real ones."""
    return np.zeros((1, spec["frames"], spec["size"], spec["size"], 3), np.uint8)
