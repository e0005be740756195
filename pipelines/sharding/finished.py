"""What an earlier run has left that need not be made again: shards, and hashes of videos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from pipelines.io import storage
from pipelines.io.markers import Listing, Marker, untouched
from pipelines.io.readers import read_all
from pipelines.sharding import marker_cache
from pipelines.sharding.clip_shards import ShardPlan, failures, near_duplicates_of
from pipelines.sharding.near_duplicates import NearDuplicate, compare, with_spans
from pipelines.sharding.perceptual_hash import known_hashes
from pipelines.sharding.plans import Plans
from pipelines.sharding.settings import ShardVideos


def standing(
    plans: Plans, config: ShardVideos, listed: Listing, as_found: bool = False
) -> Iterator[tuple[ShardPlan, Marker]]:
    """The shards that are there as planned, with their markers: the driver sees it by itself.

    With `as_found`, the near-duplicates of a shard are taken to be those that it was made with.
    """
    for number, marker in enumerate(untouched(plans.folder, plans.places, listed)):
        if marker is None or (config.retry_failed and failures(marker)):
            continue
        plan = plans[number]
        if as_found:
            plan = replace(plan, near_duplicates=near_duplicates_of(marker))
        if plan.is_of(marker):
            yield plan, marker


def clips_there(plans: Plans, config: ShardVideos) -> dict[str, int]:
    """The number of clips of each shard that would stay. Nothing is hashed for it: where hashes are
    missing, near-duplicates are taken to be those that a shard was made with."""
    near_duplicates: dict[int, NearDuplicate] | None = {}
    if config.filters.min_distance:
        near_duplicates = known_near_duplicates(plans, config)
    plans = replace(plans, near_duplicates=near_duplicates or {})
    listed, there = storage.written_below(plans.folder), dict[str, int]()
    with marker_cache.opened(plans.folder, plans.spec) as cache:
        for known in cache.find(plans, listed, config.retry_failed):
            there |= {shard.name: shard.clips for shard in marker_cache.shards_of(known)}
    others = plans.only(name for name in plans.places if name not in there)
    found = standing(others, config, listed, as_found=near_duplicates is None)
    return there | {plan.name: len(marker.keys) for plan, marker in found}


def hashes_there(plans: Plans, config: ShardVideos) -> Iterator[tuple[str, list[str] | None]]:
    """Every shard, with the hashes of its videos if none of them has to be hashed."""
    known = partial(known_hashes, config.workspace.perceptual_hashes, config.retry_failed)
    return zip(plans.places, read_all(known, plans), strict=True)


def known_near_duplicates(plans: Plans, config: ShardVideos) -> dict[int, NearDuplicate] | None:
    """What `find_near_duplicates` will find; None if videos have to be hashed for it."""
    is_known = True

    def rows() -> Iterator[dict]:
        nonlocal is_known
        for name, hashes in hashes_there(plans, config):
            if hashes is None:
                is_known = False
                return
            yield {"name": name, "hashes": hashes}

    found = compare(plans.places, rows(), len(plans.sources), config.filters.min_distance)
    return with_spans(found, plans.sources.first_spans_N) if is_known else None
