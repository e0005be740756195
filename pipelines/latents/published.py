"""Published latents, checked against the VQGAN and the clips that they were made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.io import shards, storage, workspace
from pipelines.io.markers import Marker, load_markers
from pipelines.io.workspace import Workspace, require
from pipelines.latents.augmentation import keys_of_latents
from pipelines.latents.captions import captions_there, check_encoder
from pipelines.latents.encoder import Origin, latent_shape, origin_of
from pipelines.settings import Augment
from vqvdm.errors import UserError

NAMES = {"vqgan_sha256": "another VQGAN", "clip_spec": "clips cut with other settings"}


@dataclass(frozen=True)
class Latents:
    """The published latents of a tokenizer, checked: what a training reads."""

    folder: str
    index: dict[str, Any]
    markers: list[Marker]

    @property
    def lineage(self) -> dict[str, str]:
        """What a model tells of the latents that it was trained on."""
        found = {"latents": self.index["spec_hash"], "clips": self.index["clips"]}
        return found | {name: self.index[name] for name in ("augment",) if name in self.index}


def open_latents(space: Workspace, name: str) -> Latents:
    """The latents of the VQGAN `name`; `UserError` if they are missing, or were made from something
    else than the VQGAN and the clips that are there now."""
    vqgan = require(space.vqgan(name), "config.json", "train_vqgan")
    folder = space.latents(name)
    index = require(folder, "index.json", "encode_latents")
    markers = load_markers(folder, index, "encode_latents")
    clips = workspace.published(space.clips, "index.json")
    if clips:
        check_shape(folder, index, latent_shape(vqgan, clips["spec"]))
    if captions := captions_there(index):
        check_encoder(folder, captions)
    weights = weights_of(space.vqgan(name), vqgan)
    # Latents may have been copied without their clips: then their own record is trusted.
    clip_spec = clips["spec_hash"] if clips else index["origin"]["clip_spec"]
    check_origin(folder, index, markers, Origin(weights, clip_spec))
    if clips and clips["fingerprint"] == index["clips"]:
        of_clips = load_markers(space.clips, clips, "shard_videos", details=False)
        check_pairs(folder, markers, of_clips, index.get("augment", "none"))
    elif clips:
        print("note: the clips have changed since the latents were made from them", flush=True)
    return Latents(folder, index, [marker.bare() for marker in markers])


def weights_of(folder: str, config: dict[str, Any]) -> str:
    """Checksum of a VQGAN's weights; `UserError` unless they are those of its `config.json`."""
    uri = storage.join(folder, "model.safetensors")
    with shards.missing_is_named(uri, "train_vqgan"):
        checksum = storage.sha256(uri)
    if not checksum.startswith(config["fingerprint"]):
        raise UserError(f"{uri} does not match config.json: run jobs/train_vqgan.py --overwrite")
    return checksum


def check_origin(folder: str, index: dict[str, Any], markers: list[Marker], wanted: Origin) -> None:
    """`UserError` names the input and the place if latents were made from something else."""
    places = [(folder, index.get("origin", {}))]
    for marker in markers:
        origin = origin_of(marker)
        uri = storage.join(folder, f"{marker.name}.tar")
        places.append((uri, asdict(origin) if origin else {}))
    for place, origin in places:
        for name, value in asdict(wanted).items():
            if origin.get(name) != value:
                raise UserError(
                    f"{place} was encoded from {NAMES[name]} "
                    f"({str(origin.get(name))[:16]}, now {value[:16]}): "
                    "run jobs/encode_latents.py --overwrite"
                )


def check_shape(folder: str, index: dict[str, Any], wanted: list[int]) -> None:
    """`UserError` unless the index records the shape that latents of these clips have."""
    if index["shape"] != wanted:
        found, right = ("×".join(map(str, shape)) for shape in (index["shape"], wanted))
        raise UserError(
            f"{folder}/index.json records latents of {found}, but these clips give {right}: "
            "run jobs/encode_latents.py again to correct it"
        )


def check_pairs(
    folder: str, latents: list[Marker], clips: list[Marker], augment: Augment = "none"
) -> None:
    """`UserError` names the first latent that is missing or has no clip, and its shard."""
    named = {marker.name: marker for marker in latents}
    for clip_marker in clips:
        uri = storage.join(folder, f"{clip_marker.name}.tar")
        found = named[clip_marker.name].keys if clip_marker.name in named else []
        wanted = keys_of_latents(clip_marker, augment)
        shards.check_keys(uri, found, wanted, "encode_latents")
