"""A job's place in the cluster: what its nodes have, the decision what to run on, and the wait for
the nodes that it needs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.cluster import autoscaler
from pipelines.cluster.cores import local_cpus
from pipelines.cluster.decision import Cluster, decide, slots_of
from pipelines.cluster.devices import CORE_PART, Devices, Kind, worker_device
from pipelines.cluster.join import is_own_ray, join_ray, joins_cluster
from pipelines.cluster.request import Request
from vqvdm.inference import Precision, common_precision, fast_precisions

REMIND_S = 60.0
"""Time between two lines while room is waited for."""
SETTLE_S = 2.0
"""Time after which a cluster that has not given room has none."""
ANSWER_S = 60.0
"""Time after which other kinds of devices than the first that answers are no longer asked what they
are fast at: other jobs may hold them for long."""


def choose_devices(request: Request) -> Devices:
    """Join the cluster, decide, print the decision, and wait for the nodes that it needs."""
    join_ray(trains=request.share is not None)
    cluster = _look(request)
    if _is_open(cluster, request):
        print("the cluster has no GPU yet: asking its autoscaler for one", flush=True)
        starts = autoscaler.starts_gpu(ray.get_runtime_context().gcs_address)
        offer = replace(cluster.offer, gpus=math.inf if starts else 0.0)
        cluster = replace(cluster, offer=offer)
    devices = decide(cluster, request)
    print(devices.words, flush=True)
    wait_for(devices, all_of_them=request.share is not None)
    return devices


def join_for_tasks() -> None:
    """Join the cluster, and wait until it has a core for a task."""
    join_ray()
    wait_for(Devices(), all_of_them=False)


def describe_devices(request: Request) -> str:
    """What `choose_devices` would decide, in words."""
    return foresee_devices(request).words


def foresee_devices(request: Request) -> Devices:
    """What `choose_devices` would decide; starts nothing, and asks no autoscaler."""
    if not joins_cluster():
        return decide(Cluster(local_cpus(), torch.cuda.device_count()), request)
    join_ray()
    cluster = _look(request)
    if _is_open(cluster, request):
        words = "running on GPUs if the cluster's autoscaler starts one, which the job will ask for"
        return Devices("cuda", words=words)
    return decide(cluster, request)


def device_to_try(devices: Devices) -> torch.device | None:
    """A device of this machine like those of the workers, on which something may be tried; None
    where there is none, or where other jobs of a cluster may be using it."""
    if devices.kind == "cpu":
        return torch.device("cpu")
    is_free = torch.cuda.is_available() and not joins_cluster()
    return torch.device("cuda") if is_free else None


def _look(request: Request) -> Cluster:
    """The cluster, with what its autoscaler may start where what there is does not suffice."""
    cluster = look(ray.nodes())
    enough = cluster.cpus >= (request.num_workers or 1) and (
        request.device == "cpu"
        or cluster.gpus >= max(1, (request.num_workers or 1) * request.gpus_per_worker)
    )
    if enough or is_own_ray():
        return cluster
    return replace(cluster, offer=autoscaler.offer(ray.get_runtime_context().gcs_address))


def _is_open(cluster: Cluster, request: Request) -> bool:
    """Whether only a request to the autoscaler would tell what to run on."""
    return request.device == "auto" and not cluster.gpus and cluster.offer.gpus is None


def look(nodes: Sequence[dict[str, Any]]) -> Cluster:
    """The cluster of these nodes, as `ray.nodes()` lists them, without an autoscaler."""
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    with_gpus = [each for each in resources if each.get("GPU", 0)]
    names = {name for each in with_gpus for name in each if name.startswith("accelerator_type:")}
    return Cluster(
        sum(each.get("CPU", 0) for each in resources),
        sum(each["GPU"] for each in with_gpus),
        sum(each.get("CPU", 0) > 0 for each in resources) or 1,
        len(with_gpus) or 1,
        tuple(sorted(name.removeprefix("accelerator_type:") for name in names)),
    )


def wait_for(devices: Devices, all_of_them: bool) -> None:
    """Wait until the cluster has room for the workers, or for the first; says so now and then.

    An autoscaler starts nodes for what is requested, so it is.
    """
    count = devices.numbers[-1] if all_of_them else 1
    request = placement_group([devices.bundle] * count)
    try:
        since = time.monotonic()
        reminded = -REMIND_S
        # Where there is room, Ray needs moments to find it.
        while not request.wait(SETTLE_S):
            waited = time.monotonic() - since
            if waited - reminded >= REMIND_S:
                reminded = waited
                has = ray.cluster_resources().get(devices.resource, 0)
                print(f"{_lacking(devices, count, has)} ({waited:.0f} s so far)", flush=True)
    finally:
        remove_placement_group(request)


def _lacking(devices: Devices, count: int, has: float) -> str:
    """What is waited for: nodes that are still to come, or the end of other jobs."""
    what, amount = devices.resource, devices.bundle[devices.resource] * count
    if has < amount:
        needed = f"{_count(amount, what)} {'is' if amount == 1 else 'are'} needed"
        return f"waiting for nodes: {needed}, the cluster has {has:g}"
    return (
        f"waiting for {_count(amount, what)}: other jobs hold what the cluster has; "
        "`ray job list` shows them, and `ray job stop ID` stops one"
    )


def _count(amount: float, what: str) -> str:
    return f"{amount:g} {what}" + ("s" if amount > 1 else "")


def memory_hint(devices: Devices, wanted: int) -> float | None:
    """Bytes for Ray to reserve for each worker, so that other jobs leave them to it.

    Never so much that a node takes fewer workers. None where nodes are still to come: an autoscaler
    may not know the memory of those it could start.
    """
    what, each = ("GPU", devices.gpus_per_worker) if devices.kind == "cuda" else ("CPU", 1.0)
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    slots = [(slots_of(node.get(what, 0), each), node.get("memory", 0)) for node in found]
    if sum(count for count, _ in slots) < devices.workers:
        return None
    return float(min(wanted, *(memory / 2 / count for count, memory in slots if count)))


def settle_precision(devices: Devices, begun: Precision | None = None) -> Precision:
    """What `--precision auto` is for all workers of a job: what all kinds of cards, or all nodes
    with cores, are fast at, and if that is so, what the job was `begun` in."""
    if devices.kind == "cpu" and is_own_ray():
        return common_precision([_precisions_here("cpu")], begun)
    needs = {
        "num_cpus": 0.0 if devices.kind == "cuda" else CORE_PART,
        "num_gpus": devices.gpus_per_worker,
    }
    ask = ray.remote(_precisions_here)
    asked = [ask.options(**needs, **where).remote(devices.kind) for where in _kinds(devices)]
    answered, _ = ray.wait(asked)
    late = [each for each in asked if each not in answered]
    in_time, silent = ray.wait(late, num_returns=len(late), timeout=ANSWER_S) if late else ([], [])
    for each in silent:
        ray.cancel(each)
    return common_precision(ray.get(answered + in_time), begun)


def _kinds(devices: Devices) -> list[dict[str, Any]]:
    """Options of tasks, one for each kind of device that workers may have."""
    if devices.kind == "cuda":
        cards = [f"accelerator_type:{card}" for card in devices.cards]
        return [{"resources": {card: CORE_PART}} for card in cards] or [{}]
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=True) for node in nodes]
    return [{"scheduling_strategy": place} for place in places] or [{}]


def _precisions_here(kind: Kind) -> tuple[Precision, ...]:
    return fast_precisions(worker_device(kind))
