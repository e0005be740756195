"""What the autoscaler of a cluster may start.

Ray tells which nodes are alive, not which may come. An operator declares it, `ray up` leaves its
configuration on the head node, and otherwise the autoscaler is asked.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.util.placement_group import placement_group, remove_placement_group

from vqvdm.errors import UserError

DECLARED = "VQVDM_CLUSTER_MAY_START"
"""Environment variable with the most that a cluster may have, such as `CPU=128,GPU=4`. Without
CPU it may have any number of them, without GPU none."""
BOOTSTRAP = "~/ray_bootstrap_config.yaml"
"""Where `ray up` puts the configuration of a cluster on its head node."""
ASK_S = 60.0
"""Within this time an autoscaler, which decides every five seconds, starts a node."""
STATUS_S = 30.0
"""Time for `ray status`."""
STATUS_ATTEMPTS = 6


@dataclass(frozen=True)
class Offer:
    """The most that a cluster may have once its autoscaler started all it may; 0 if it has none."""

    cpus: float = 0.0
    gpus: float | None = 0.0
    """None where only a request would tell."""


FIXED = Offer()
UNKNOWN = Offer(math.inf, None)


def declared(text: str) -> Offer:
    """The offer in the words of `VQVDM_CLUSTER_MAY_START`."""
    amounts = {"CPU": math.inf, "GPU": 0.0}
    for part in filter(None, text.replace(" ", "").split(",")):
        name, _, amount = part.partition("=")
        if name not in amounts or not re.fullmatch(r"\d+(\.\d+)?", amount):
            raise UserError(f"{DECLARED}={text}: give amounts such as CPU=128,GPU=4")
        amounts[name] = float(amount)
    return Offer(amounts["CPU"], amounts["GPU"])


def of_config(config: Mapping[str, Any]) -> Offer:
    """The offer of a cluster's YAML file, as `ray up` resolved it."""
    limit = config.get("max_workers", 0)
    totals = {"CPU": 0.0, "GPU": 0.0}
    for name, node in config.get("available_node_types", {}).items():
        count = 1 if name == config.get("head_node_type") else node.get("max_workers", limit)
        for resource in totals:
            totals[resource] += min(count, max(limit, 1)) * node["resources"].get(resource, 0)
    return Offer(totals["CPU"], totals["GPU"])


def offer(gcs_address: str) -> Offer:
    """What the autoscaler of the cluster at an address may start, as far as it is told."""
    if text := os.environ.get(DECLARED):
        return declared(text)
    file = Path(os.path.expanduser(BOOTSTRAP))
    if file.is_file():
        return of_config(yaml.safe_load(file.read_text()))
    return FIXED if _is_fixed(gcs_address) else UNKNOWN


@cache
def _is_fixed(gcs_address: str) -> bool:
    return is_fixed(status(gcs_address))


def status(gcs_address: str) -> str:
    """What `ray status` prints; nothing where it tells of no nodes, as on a young cluster."""
    ray_command = shutil.which("ray", path=os.path.dirname(sys.executable)) or "ray"
    command = [ray_command, "status", "--address", gcs_address]
    for _ in range(STATUS_ATTEMPTS):
        with suppress(OSError, subprocess.TimeoutExpired):
            found = subprocess.run(command, capture_output=True, text=True, timeout=STATUS_S)
            if "Node status" in found.stdout:
                return found.stdout
        time.sleep(1)
    return ""


def is_fixed(status: str) -> bool:
    """Whether a cluster has no autoscaler: then each of its nodes is of a type of its own."""
    return not status or bool(re.search(r"^ 1 node_[0-9a-f]{16,}$", status, re.MULTILINE))


def pending(status: str) -> set[str]:
    """The nodes that an autoscaler is starting, a line each."""
    section = re.search(r"^Pending:\n((?: .*\n)*)", status, re.MULTILINE)
    lines = section[1].splitlines() if section else []
    return {line.strip() for line in lines if "no pending nodes" not in line}


def starts_gpu(gcs_address: str) -> bool:
    """Ask the autoscaler for a GPU; whether it starts a node for it, or has one by then."""
    before = pending(status(gcs_address))
    request = placement_group([{"GPU": 1}])
    deadline = time.monotonic() + ASK_S
    try:
        while time.monotonic() < deadline:
            time.sleep(1)
            if ray.cluster_resources().get("GPU", 0) or pending(status(gcs_address)) - before:
                return True
        return False
    finally:
        remove_placement_group(request)
