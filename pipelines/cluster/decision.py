"""The decision what a job runs on: one function makes it, from the cluster and the settings.

GPUs are taken where the cluster has some or may start some.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pipelines.cluster import autoscaler
from pipelines.cluster.autoscaler import FIXED, Offer
from pipelines.cluster.devices import Devices
from pipelines.cluster.request import Request
from vqvdm.errors import UserError


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
        """Infinite when only the autoscaler can say how many GPUs it may start."""
        return max(self.gpus, math.inf if self.offer.gpus is None else self.offer.gpus)


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
    slots, there = slots_of(cluster.most_gpus, each), slots_of(cluster.gpus, each)
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


def slots_of(gpus: float, each: float) -> float:
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
