"""What a job runs on: a table of clusters, offers and settings."""

import math
from typing import Any

import pytest

from pipelines.cluster.autoscaler import Offer
from pipelines.cluster.decision import Cluster, decide
from pipelines.cluster.request import Request
from vqvdm.errors import UserError

NOTHING = Cluster(0, 0)
EIGHT_CPUS = Cluster(8, 0)
EIGHT_GPUS = Cluster(64, 8, cpu_nodes=2, gpu_nodes=2, cards=("H100",))


def growing(cluster: Cluster, cpus: float, gpus: float | None) -> Cluster:
    return Cluster(cluster.cpus, cluster.gpus, offer=Offer(cpus, gpus))


def train(**changes: Any) -> Request:
    return Request(**({"cpu_workers": 2, "share": 32} | changes))


@pytest.mark.parametrize(
    ("cluster", "request_", "kind", "workers", "gpus"),
    [
        # By default one worker for each GPU, and without GPUs what the preset says.
        (EIGHT_GPUS, train(), "cuda", 8, 1),
        (EIGHT_CPUS, train(), "cpu", 2, 0),
        (EIGHT_CPUS, Request(), "cpu", 8, 0),
        (EIGHT_CPUS, Request(at_most=3), "cpu", 3, 0),
        (EIGHT_GPUS, Request(at_most=3), "cuda", 3, 1),
        (Cluster(1, 0), train(), "cpu", 1, 0),
        # As many as divide the batch.
        (EIGHT_GPUS, train(share=12), "cuda", 6, 1),
        (EIGHT_GPUS, train(share=4), "cuda", 4, 1),
        # The cluster's GPUs are still to come.
        (growing(NOTHING, 64, 8), train(num_workers=4), "cuda", 4, 1),
        (growing(NOTHING, 64, 8), train(), "cuda", 1, 1),
        (growing(EIGHT_CPUS, math.inf, 4), Request(), "cuda", 1, 1),
        (growing(NOTHING, math.inf, None), train(device="cuda", num_workers=4), "cuda", 4, 1),
        # The cluster grows, without GPUs.
        (growing(EIGHT_CPUS, 64, 0), train(num_workers=32), "cpu", 32, 0),
        (growing(NOTHING, math.inf, 0), train(), "cpu", 2, 0),
        # What is asked for by name.
        (EIGHT_GPUS, train(device="cpu"), "cpu", 2, 0),
        (EIGHT_GPUS, train(device="cuda", num_workers=2), "cuda", 2, 1),
        # Workers that do not talk to each other may share GPUs, or take several.
        (EIGHT_GPUS, Request(num_workers=16, gpus_per_worker=0.5), "cuda", 16, 0.5),
        (EIGHT_GPUS, Request(gpus_per_worker=0.5), "cuda", 16, 0.5),
        (EIGHT_GPUS, Request(gpus_per_worker=2), "cuda", 4, 2),
    ],
)
def test_one_function_decides(
    cluster: Cluster, request_: Request, kind: str, workers: int, gpus: float
) -> None:
    found = decide(cluster, request_)
    assert (found.kind, found.workers, found.gpus_per_worker) == (kind, workers, gpus)


@pytest.mark.parametrize(
    ("cluster", "request_", "line"),
    [
        (EIGHT_CPUS, train(device="cuda"), r"--device cuda, but the cluster has no GPU .*cpu"),
        (growing(EIGHT_CPUS, 64, 0), train(device="cuda"), "no GPU and starts none"),
        (
            EIGHT_GPUS,
            train(num_workers=16),
            r"16 workers want one GPU each, .* has 8: pass --num-workers 8, or --device cpu",
        ),
        (
            EIGHT_GPUS,
            Request(num_workers=16),
            r"has 8: pass --num-workers 8 or --gpus-per-worker 0.5, or --device cpu",
        ),
        (EIGHT_CPUS, train(num_workers=32), r"--num-workers 32 .*8 CPUs, 0 GPUs: pass .*8"),
        (EIGHT_GPUS, Request(gpus_per_worker=9), r"--gpus-per-worker 9.* 8 GPUs: pass .* 8 or"),
        (NOTHING, train(), r"no CPUs for workers.*VQVDM_CLUSTER_MAY_START"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_line(
    cluster: Cluster, request_: Request, line: str
) -> None:
    with pytest.raises(UserError, match=line) as told:
        decide(cluster, request_)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("cluster", "request_", "words"),
    [
        (EIGHT_GPUS, train(), "running on 8 workers with one GPU each (H100)"),
        (Cluster(8, 1), train(), "running on one worker with one GPU"),
        (
            growing(NOTHING, 64, 8),
            train(num_workers=4),
            "running on 4 workers with one GPU each; the cluster has 0 GPUs so far and starts more",
        ),
        (
            EIGHT_GPUS,
            train(share=4),
            "running on 4 workers with one GPU each (H100); the cluster has 8 GPUs",
        ),
        (
            EIGHT_GPUS,
            Request(gpus_per_worker=0.5),
            "running on 16 workers with 0.5 of a GPU each (H100)",
        ),
        (
            EIGHT_CPUS,
            train(),
            "running on the CPU: 2 workers on 8 cores; the cluster has no GPU",
        ),
        (
            EIGHT_GPUS,
            train(device="cpu", cpu_workers=1),
            "running on the CPU: one worker on 64 cores; as --device cpu says",
        ),
    ],
)
def test_the_decision_in_words(cluster: Cluster, request_: Request, words: str) -> None:
    assert decide(cluster, request_).words == words


@pytest.mark.parametrize(
    ("cluster", "request_", "numbers"),
    [
        (EIGHT_GPUS, train(num_workers=8, at_least=2), (8, 4, 2)),
        (EIGHT_GPUS, train(num_workers=8), (8,)),
        (EIGHT_GPUS, train(num_workers=6, share=12, at_least=2), (6, 4, 3, 2)),
        (Cluster(8, 2), train(num_workers=8, at_least=2), (8, 4, 2)),  # more may come
        (EIGHT_CPUS, train(num_workers=32, at_least=4), (32, 16, 8, 4)),
        (EIGHT_GPUS, Request(num_workers=8), ()),  # workers that do not talk to each other
    ],
)
def test_a_training_may_have_fewer_workers_that_divide_its_batch(
    cluster: Cluster, request_: Request, numbers: tuple[int, ...]
) -> None:
    found = decide(cluster, request_)
    assert found.numbers == numbers
    assert found.workers == request_.num_workers
    fewer = len(numbers) > 1
    told = f", or as few as {min(numbers)}, as nodes come and go" if fewer else ""
    assert found.words.endswith(told) and ("as few" in found.words) == fewer


def test_fewer_than_the_fewest_cannot_be_had() -> None:
    with pytest.raises(UserError, match=r"8 workers want one GPU each, .* has 2"):
        decide(Cluster(8, 2), train(num_workers=8, at_least=4))
    with pytest.raises(UserError, match="--num-workers 32 is more than the cluster has: 8 CPUs"):
        decide(EIGHT_CPUS, train(num_workers=32, at_least=16))
