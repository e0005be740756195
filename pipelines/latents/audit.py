"""The audit of cached values: a sample of the clips is encoded again, and compared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np

from pipelines.io import shards, storage
from pipelines.io.arrays import decode_array
from pipelines.io.checksums import json_bytes
from pipelines.io.markers import Marker
from pipelines.latents.augmentation import keys_of_clips
from pipelines.latents.encoder import EncodePlan, Encoder
from vqvdm.errors import UserError


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
