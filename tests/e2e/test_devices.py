"""Devices on real clusters: GPUs that are but a number, nodes that are still to come."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.e2e.conftest import Runner
from tests.e2e.growing_cluster import growing_cluster

pytestmark = pytest.mark.e2e
REPOSITORY = Path(__file__).parents[2]

WITHOUT_CARD = """
import ray
from pipelines.cluster.join import find_user_error, ray_options
from pipelines.cluster.placement import choose_devices
from pipelines.training.settings import TrainVQGAN
from pipelines.training.trainer import Data, Plan, fit

ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, **ray_options(own=True))
config = TrainVQGAN(root="root")
data = Data("", [], "", None)
plan = Plan(config, None, data, "root/a", "recipe", "", "", choose_devices(config.request()))
try:
    fit(plan)
except Exception as error:
    print("told:", find_user_error(error))
"""
GROWING = """
from dataclasses import replace
from pipelines.cluster.placement import choose_devices, describe_devices
from pipelines.cluster.request import Request
print(describe_devices(Request(device="cpu", num_workers=32, share=32)))
print(describe_devices(Request()))
print(choose_devices(Request(num_workers=1, share=4)).kind)
"""


def run(script: str, environment: dict[str, str], folder: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=480,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_worker_that_sees_no_card_says_so_in_one_line() -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        found = run(WITHOUT_CARD, environment | {"RAY_TMPDIR": folder}, folder)
    lines = found.splitlines()
    assert lines[0] == "running on one worker with one GPU"
    assert re.match("told: a worker on .* was given a GPU, and PyTorch, .* sees none", lines[1])


def test_a_cluster_that_starts_nodes_with_gpus_is_asked_and_waited_for(tmp_path: Path) -> None:
    with growing_cluster(gpu={"CPU": 1, "GPU": 1}) as environment:
        lines = run(GROWING, environment, str(tmp_path)).splitlines()
    more = "on 0 cores so far, to which the cluster adds more"
    lines = [line for line in lines if "(autoscaler" not in line]  # Ray's own
    assert lines[0] == f"running on the CPU: 32 workers {more}; as --device cpu says"
    assert lines[1].startswith("running on GPUs if the cluster's autoscaler starts one")
    assert lines[2] == "the cluster has no GPU yet: asking its autoscaler for one"
    assert lines[3].startswith("running on one worker with one GPU")
    assert lines[-1] == "cuda"


def test_a_job_says_that_it_waits_for_others(
    job: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    from pipelines.cluster.placement import SETTLE_S, join_for_tasks

    other_job = placement_group([{"CPU": 1}] * 2)
    ray.get(other_job.ready())
    capsys.readouterr()
    threading.Timer(SETTLE_S + 2, remove_placement_group, (other_job,)).start()
    join_for_tasks()
    lines = [line for line in capsys.readouterr().out.splitlines() if "waiting" in line]
    assert len(lines) == 1
    words = "waiting for 1 CPU: other jobs hold what the cluster has; `ray job list`"
    assert lines[0].startswith(words)


def test_cuda_without_any_is_told_at_once(job: Runner, tmp_path: Path) -> None:
    from pipelines.cluster.placement import choose_devices
    from pipelines.cluster.request import Request
    from vqvdm.errors import UserError

    with pytest.raises(UserError, match="--device cuda, but the cluster has no GPU"):
        choose_devices(Request(device="cuda"))
