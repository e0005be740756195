"""The inputs of an encoding, found and checked before anything is computed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from pipelines.io import lock, other_settings, workspace
from pipelines.io.markers import Marker, filled_with, load_markers, untouched
from pipelines.io.workspace import require
from pipelines.latents import published
from pipelines.latents.augmentation import keys_of_latents
from pipelines.latents.captions import (
    Captions,
    captions_by,
    captions_there,
    encoder_bytes,
    flags_there,
)
from pipelines.latents.encoder import EncodePlan, Origin, begun_with, latent_shape, spec_hash
from pipelines.latents.settings import EncodeLatents
from pipelines.settings import Augment
from pipelines.sharding import manifest
from pipelines.sharding.columns import from_text
from vqvdm.errors import UserError
from vqvdm.inference import Precision
from vqvdm.text_encoder import refuse_missing_library


@dataclass(frozen=True)
class Inputs:
    """The inputs of an encoding, or of its audit."""

    config: EncodeLatents
    """The settings; for the audit, augmented as the latents that are there."""
    index: dict[str, Any]
    """`clips/index.json`."""
    vqgan: dict[str, Any]
    """`config.json` of the VQGAN."""
    clips: list[Marker]
    origin: Origin
    shape: list[int]
    """That of a latent: C, T, H, W."""
    found: str | None
    """Fingerprint of the settings by which the latents that are there were begun; None for none."""
    captions: Captions | None = None

    @property
    def folder(self) -> str:
        return self.config.workspace.latents(self.config.vqgan)

    @property
    def spec(self) -> dict[str, Any]:
        """How the clips were cut."""
        return self.index["spec"]

    @property
    def fingerprints(self) -> dict[str, str]:
        found = {"clips": self.index["fingerprint"], "vqgan": self.vqgan["fingerprint"]}
        return found | ({"captions": self.captions.identity} if self.captions else {})

    @property
    def total(self) -> int:
        """Latents that there will be."""
        return sum(len(keys_of_latents(marker, self.config.augment)) for marker in self.clips)

    @property
    def precision(self) -> Precision | None:
        """As `precision_of`."""
        found = None if replaces(self.config, self.folder) else self.found
        return precision_of(self.config, self.origin, found, self.captions)

    @property
    def encoder_files(self) -> set[str]:
        """Files of the text encoder below the folder of the latents; empty without captions."""
        return self.captions.names if self.captions else set()

    @property
    def encoder_bytes(self) -> int:
        """Memory of the text encoder's weights; 0 where no captions are encoded."""
        source = self.config.text_encoder
        return encoder_bytes(source, self.captions) if source and self.captions else 0

    def made_with(self, precision: Precision) -> str:
        """Fingerprint of the settings of latents of this precision."""
        config = self.config
        return spec_hash(self.origin, precision, config.batch_size, config.augment, self.captions)

    def plans(self, precision: Precision) -> list[EncodePlan]:
        """The plan of each shard."""
        clips, made_by = self.config.workspace.clips, self.made_with(precision)
        return [
            EncodePlan(
                clips, marker, self.folder, made_by, self.origin, self.config.augment, self.captions
            )
            for marker in self.clips
        ]

    def reading(self) -> AbstractContextManager[None]:
        """Seen by those who write, as one who reads."""
        space = self.config.workspace
        return lock.reading("encode_latents", space.clips, space.vqgan(self.config.vqgan))

    def refuse_other(self) -> None:
        """`UserError` names what makes the latents that are there differ from those wanted."""
        assert self.found
        wanted = self.made_with(self.precision or self.config.precision)
        what = differing(self.folder, self.found, self.origin, self.config, self.captions)
        cure = "" if self.captions else flags_there(self.folder)
        other_settings.refuse_other(self.folder, self.found, wanted, what, cure=cure)


def find_inputs(config: EncodeLatents) -> Inputs:
    """Find and check all inputs; `UserError` if one is missing or they do not match."""
    space = config.workspace
    index = require(space.clips, "index.json", "shard_videos")
    workspace.refuse_no_training_clips(space.clips, index["counts"].get("train", 0))
    vqgan = require(space.vqgan(config.vqgan), "config.json", "train_vqgan")
    if vqgan["inputs"]["clips"] != index["fingerprint"]:
        print("note: the VQGAN was trained on other clips than these", flush=True)
    shape = latent_shape(vqgan, index["spec"])
    folder = space.latents(config.vqgan)
    clips = load_markers(space.clips, index, "shard_videos")
    weights = published.weights_of(space.vqgan(config.vqgan), vqgan)
    origin = Origin(weights, index["spec_hash"])
    found = filled_with(folder)
    captions = captions_of(config, folder, clips)
    if config.audit:
        config = replace(config, augment=augment_there(config, folder))
    return Inputs(config, index, vqgan, clips, origin, shape, found, captions)


def captions_of(config: EncodeLatents, folder: str, clips: list[Marker]) -> Captions | None:
    """The captions of clips that are to be encoded, or that were, for the audit; None for none.
    `UserError` where no clip has one, one is no text, or nothing can encode them."""
    if config.audit:
        return captions_there(require(folder, "index.json", "encode_latents"))
    if config.text_encoder is None:
        return None
    refuse_missing_library()
    if not manifest.captioned(config.workspace.manifest, config.caption_column):
        raise UserError(
            f"the column {config.caption_column!r} is empty for all videos that gave clips: leave "
            "--text-encoder out, or pass the --caption-column that is filled"
        )
    captions = captions_by(config.text_encoder, config.caption_column)
    for marker in clips:
        for video, _ in manifest.from_marker(marker.details):
            captions.of(from_text(video.columns) | {"source": video.path})
    return captions


def augment_there(config: EncodeLatents, folder: str) -> Augment:
    """How the latents that are there were augmented; `UserError` if --augment asks otherwise."""
    there: Augment = require(folder, "index.json", "encode_latents").get("augment", "none")
    if config.augment not in ("none", there):
        raise UserError(
            f"--audit looks at the latents in {folder}, which are without mirror images: leave "
            f"--augment {config.augment} out"
        )
    return there


def replaces(config: EncodeLatents, folder: str) -> bool:
    """Whether finished latents are replaced, however they were made."""
    finished = workspace.published(folder, "index.json") is not None
    return config.overwrite and not config.audit and finished


def precision_of(
    config: EncodeLatents, origin: Origin, found: str | None, captions: Captions | None = None
) -> Precision | None:
    """The precision of the latents; None if the cluster has to be asked what is fast there.

    Where `--precision auto` leaves it open, latents are finished as they were begun.
    """
    if config.precision != "auto":
        return config.precision
    if found is None:
        return None
    return begun_with(found, origin, config.batch_size, config.augment, captions)


def differing(
    folder: str, found: str, origin: Origin, config: EncodeLatents, captions: Captions | None = None
) -> str:
    """What makes latents of other settings differ from those that are wanted, in words."""
    index = workspace.published(folder, "index.json") or {}
    before, wanted = index.get("origin", {}), asdict(origin)
    there = captions_there(index)
    if before and there != captions:
        old, new = (each.in_words if each else "none" for each in (there, captions))
        return f"captions {old} → {new}"
    other = [words for name, words in published.NAMES.items() if before.get(name) != wanted[name]]
    if before and other:
        return ", ".join(other)
    for augment in get_args(Augment):
        if augment != config.augment and begun_with(
            found, origin, config.batch_size, augment, captions
        ):
            return f"augment {augment} → {config.augment}"
    if precision := begun_with(found, origin, config.batch_size, config.augment, captions):
        return f"precision {precision} → {config.precision}"
    return f"batch_size, now {config.batch_size}" if before else ""


def finished_latents(plans: list[EncodePlan]) -> list[Marker]:
    """The markers of all latents that are there as planned: the driver sees it by itself."""
    found = untouched(plans[0].folder, [plan.marker.name for plan in plans])
    return [m for plan, m in zip(plans, found, strict=True) if m and plan.is_of(m)]
