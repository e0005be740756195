"""The audit of cached latents: their origin, shape, keys and values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from pipelines.io import shards, storage, workspace
from pipelines.io.arrays import decode_array
from pipelines.io.checksums import json_bytes
from pipelines.io.markers import Marker, load_markers
from pipelines.io.workspace import Workspace, require
from pipelines.latents.augmentation import keys_of_clips, keys_of_latents
from pipelines.latents.captions import captions_there, check_encoder
from pipelines.latents.encoder import EncodePlan, Encoder, Origin, latent_shape, origin_of
from pipelines.settings import Augment
from vqvdm.errors import UserError

NAMES = {"vqgan_sha256": "another VQGAN", "clip_spec": "clips cut with other settings"}


@dataclass(frozen=True)
class Latents:
    """The published latents of a tokenizer, audited: what a training reads."""

    folder: str
    index: dict[str, Any]
    markers: list[Marker]

    @property
    def lineage(self) -> dict[str, str]:
        """What a model tells of the latents that it was trained on."""
        found = {"latents": self.index["spec_hash"], "clips": self.index["clips"]}
        return found | {name: self.index[name] for name in ("augment",) if name in self.index}


def audited(space: Workspace, name: str) -> Latents:
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


@dataclass(frozen=True)
class Difference:
    """The difference between a cached latent and what the encoder gives now."""

    key: str
    shard: str
    deviations: float
    """The largest over the latent, in standard deviations of the channel."""


class AuditShard(Encoder):
    """Encodes some clips of a shard again and compares with the latents that are cached."""

    def __call__(self, row: dict) -> dict:
        """Takes {"plan": EncodePlan, "marker": that of the latents, "keys", "std": by channel}.

        Gives {"differences": the JSON of a `Difference` for each key}: Ray takes plain values only.
        """
        plan: EncodePlan = row["plan"]
        keys, std_C111 = set(row["keys"]), np.reshape(row["std"], (-1, 1, 1, 1))
        clips = shards.read_shard(plan.clips, plan.marker, "shard_videos")
        cached = shards.read_shard(plan.folder, row["marker"], "encode_latents")
        of = sorted(keys_of_clips(keys))
        chosen = (shards.clip_of(sample.members) for sample in clips if sample.key in of)
        names, again = iter(of), dict[str, np.ndarray]()
        for batch in self.encode(chosen, plan.views):
            for number, name in enumerate(islice(names, len(batch[""]))):
                again |= {name + end: latents[number] for end, latents in batch.items()}
        found = []
        for sample in cached:
            if sample.key in keys:
                off = np.abs(decode_array(sample.members["npy"]) - again[sample.key]) / std_C111
                found.append(Difference(sample.key, plan.marker.name, float(np.max(off))))
        return {"differences": json_bytes([asdict(each) for each in found])}


def differences_of(row: dict) -> list[Difference]:
    """What an `AuditShard` gave."""
    return [Difference(**each) for each in json.loads(row["differences"])]


def sample_keys(markers: list[Marker], count: int) -> list[list[str]]:
    """For each shard its part of `count` keys, which are spread evenly over all shards."""
    ends = np.cumsum([len(marker.keys) for marker in markers])
    places = np.unique(np.linspace(0, ends[-1] - 1, min(count, ends[-1])).round().astype(int))
    chosen: list[list[str]] = [[] for _ in markers]
    for place in places:
        shard = int(np.searchsorted(ends, place, side="right"))
        chosen[shard].append(markers[shard].keys[place - ends[shard]])
    return chosen


def judge(folder: str, differences: Iterable[Difference], tolerance: float) -> str:
    """The result in words; `UserError` names the latents that differ too much."""
    ordered = sorted(differences, key=lambda d: (d.shard, d.key))
    # A difference that is not a number is no match either.
    wrong = [d for d in ordered if not d.deviations <= tolerance]
    if wrong:
        named = ", ".join(
            f"{d.key} in {storage.join(folder, d.shard)}.tar by {d.deviations:.3g}"
            for d in wrong[:3]
        )
        raise UserError(
            f"{len(wrong)} of {len(ordered)} cached latents differ from those that the encoder "
            f"gives now (by more than {tolerance} standard deviations): {named}: "
            "run jobs/encode_latents.py --overwrite"
        )
    largest = max((d.deviations for d in ordered), default=0.0)
    return f"{len(ordered)} latents encoded again: at most {largest:.2g} standard deviations off"
