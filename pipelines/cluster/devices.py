"""What a job runs on: one function decides it from the cluster and the settings.

GPUs are taken where the cluster has some or may start some. The decision goes to the workers,
which do not guess again.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group

from pipelines.cluster import autoscaler
from pipelines.cluster.autoscaler import FIXED, Offer
from pipelines.cluster.cores import local_cpus
from pipelines.cluster.join import is_own_ray, join_ray, joins_cluster
from pipelines.cluster.request import Request
from vqvdm.errors import UserError
from vqvdm.inference import Precision, fast_precision

Kind = Literal["cpu", "cuda"]
CORE_PART = 0.001
"""Part of a core that Ray reserves for a small task: beside a worker that takes the rest of it."""
REMIND_S = 60.0
"""Time between two lines while room is waited for."""
SETTLE_S = 2.0
"""Time after which a cluster that has not given room has none."""


@dataclass(frozen=True)
class Cluster:
    """What a cluster has, and what it may have later."""

    cpus: float
    gpus: float
    cpu_nodes: int = 1
    gpu_nodes: int = 1
    cards: tuple[str, ...] = ()
    """Models of the GPUs."""
    offer: Offer = FIXED

    @property
    def most_cpus(self) -> float:
        return max(self.cpus, self.offer.cpus)

    @property
    def most_gpus(self) -> float:
        """None is told of GPUs that only a request would reveal: they may be any number."""
        return max(self.gpus, math.inf if self.offer.gpus is None else self.offer.gpus)


@dataclass(frozen=True)
class Devices:
    """The decision."""

    kind: Kind = "cpu"
    workers: int = 1
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for a worker."""
    workers_per_node: int = 1
    words: str = ""
    """One line: what the job runs on."""
    numbers: tuple[int, ...] = ()
    """Numbers of workers that a training may have, most first; none unless they train together."""
    cards: tuple[str, ...] = ()
    """Models of the cluster's GPUs, where the job runs on some."""

    @property
    def resource(self) -> str:
        """What Ray calls what a worker needs most: GPU or CPU."""
        return "GPU" if self.kind == "cuda" else "CPU"

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray reserves for a worker."""
        return {"GPU": self.gpus_per_worker} if self.kind == "cuda" else {"CPU": 1.0}

    def threads(self) -> int:
        """A worker's share of the cores of the machine that it runs on: call it in the worker."""
        return threads(self.workers_per_node)


def threads(workers_here: int) -> int:
    """The share of this machine's cores for each of the workers on it."""
    return max(1, local_cpus() // max(1, workers_here))


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


def decide(cluster: Cluster, request: Request) -> Devices:
    """The devices of a job; `UserError` if the cluster cannot have them."""
    if request.device == "cuda" and not cluster.most_gpus:
        raise UserError(
            "--device cuda, but the cluster has no GPU and starts none: pass --device cpu, or add "
            f"a node with GPUs (what an autoscaler may start is told by {autoscaler.DECLARED})"
        )
    if request.device == "cpu" or not cluster.most_gpus:
        devices = _on_cpus(cluster, request)
    else:
        devices = _on_gpus(cluster, request)
    return replace(devices, numbers=_numbers(devices.workers, request))


def _numbers(workers: int, request: Request) -> tuple[int, ...]:
    if not request.share:
        return ()
    least = request.at_least or workers
    return tuple(n for n in range(workers, least - 1, -1) if request.share % n == 0)


def _needed(workers: int, request: Request) -> int:
    """The smallest number of workers that a job of so many at most runs with."""
    return (_numbers(workers, request) or (workers,))[-1]


def _or_fewer(workers: int, request: Request) -> str:
    least = _needed(workers, request)
    return f", or as few as {least}, as nodes come and go" if least < workers else ""


def _on_gpus(cluster: Cluster, request: Request) -> Devices:
    each = request.gpus_per_worker
    slots, there = _slots(cluster.most_gpus, each), _slots(cluster.gpus, each)
    if not slots:
        raise UserError(
            f"--gpus-per-worker {each:g}, but the cluster has {cluster.most_gpus:g} GPUs: pass "
            f"--gpus-per-worker {cluster.most_gpus:g} or less"
        )
    workers = request.num_workers or _default(int(there) or 1, request)
    if _needed(workers, request) > slots:
        fraction = math.floor(100 * cluster.most_gpus / workers) / 100
        # Collectives between two workers on one GPU do not exist.
        or_shared = "" if request.share or not fraction else f" or --gpus-per-worker {fraction:g}"
        raise UserError(
            f"{workers} workers want {_gpus(each)} each, and the cluster has "
            f"{cluster.most_gpus:g}: pass --num-workers {int(slots)}{or_shared}, or --device cpu"
        )
    card = f" ({', '.join(cluster.cards)})" if cluster.cards else ""
    among = f"{workers} workers with {_gpus(each)} each"
    if workers == 1:
        among = f"one worker with {_gpus(each)}"
    words = f"running on {among}{card}"
    if workers > there:
        words += f"; the cluster has {cluster.gpus:g} GPUs so far and starts more"
    elif there > workers and not request.num_workers:
        words += f"; the cluster has {cluster.gpus:g} GPUs"
    words += _or_fewer(workers, request)
    per_node = math.ceil(workers / cluster.gpu_nodes)
    return Devices("cuda", workers, each, per_node, words, cards=cluster.cards)


def _on_cpus(cluster: Cluster, request: Request) -> Devices:
    most, workers = cluster.most_cpus, request.num_workers
    if not most:
        raise UserError(
            "the cluster has no CPUs for workers: start a node with some, or tell by "
            f"{autoscaler.DECLARED} what it may start"
        )
    if workers is None:
        wanted = request.cpu_workers or max(1, int(cluster.cpus))
        workers = _default(int(min(wanted, max(1, most))), request)
    elif request.share and most and _needed(workers, request) > most:
        raise UserError(
            f"--num-workers {workers} is more than the cluster has: {most:g} CPUs, "
            f"{cluster.most_gpus:g} GPUs: pass --num-workers {max(1, int(most))}"
        )
    among = f"{workers} workers" if workers > 1 else "one worker"
    why = "as --device cpu says" if request.device == "cpu" else "the cluster has no GPU"
    cores = f"{cluster.cpus:g} cores"
    if workers > cluster.cpus and most > cluster.cpus:
        cores += " so far, to which the cluster adds more"
    words = f"running on the CPU: {among} on {cores}; {why}{_or_fewer(workers, request)}"
    return Devices("cpu", workers, 0.0, math.ceil(workers / cluster.cpu_nodes), words)


def _slots(gpus: float, each: float) -> float:
    """Workers that so many GPUs take; one below 1 GPU shares it with its like only."""
    if gpus == math.inf:
        return math.inf
    return int(gpus) * math.floor(1 / each + 1e-9) if each < 1 else int(gpus / each)


def _default(most: int, request: Request) -> int:
    """As many workers as suit the tasks, or divide the clips of a step."""
    if request.share:
        return next(n for n in range(most, 0, -1) if request.share % n == 0)
    return max(1, min(most, request.at_most or most))


def _gpus(each: float) -> str:
    return "one GPU" if each == 1 else f"{each:g} GPUs" if each > 1 else f"{each:g} of a GPU"


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
    slots = [(_slots(node.get(what, 0), each), node.get("memory", 0)) for node in found]
    if sum(count for count, _ in slots) < devices.workers:
        return None
    return float(min(wanted, *(memory / 2 / count for count, memory in slots if count)))


def settle_precision(devices: Devices) -> Precision:
    """What `--precision auto` is for all workers of a job: one of them is asked."""
    cpus = 0.0 if devices.kind == "cuda" else CORE_PART
    ask = ray.remote(_precision_here).options(num_cpus=cpus, num_gpus=devices.gpus_per_worker)
    precision: Precision = ray.get(ask.remote(devices.kind))
    return precision


def _precision_here(kind: Kind) -> Precision:
    return fast_precision(worker_device(kind))


def worker_device(kind: Kind) -> torch.device:
    """The device of this worker; `UserError` if it should have a GPU and PyTorch sees none."""
    if kind == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
        raise UserError(
            f"a worker on {socket.gethostname()} was given a GPU, and PyTorch, {built}, "
            "sees none: check the driver (nvidia-smi), CUDA_VISIBLE_DEVICES and the "
            "installed torch there, or pass --device cpu"
        )
    return torch.device(kind)
