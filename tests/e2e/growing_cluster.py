"""A cluster on this machine that starts nodes on request, with GPUs that are but a number.

Ray's own `AutoscalingCluster` ends every Ray on the machine, and lacks a file in the packages.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray.util

from tests.e2e.conftest import free_port

HEAD_TYPE = "ray.head.default"
"""The provider knows no other name for it."""
HEAD = {"resources": {}, "node_config": {}, "max_workers": 0}
LISTS = (
    "cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
    "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
    "rsync_exclude", "rsync_filter",
)  # fmt: skip
START_S = 60


@contextmanager
def growing_cluster(idle_s: float = 300, **types: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yields the environment of a process that joins it; `types` are resources by type of node. A
    node goes that had nothing to do for `idle_s`.
    """
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        address = f"{ray.util.get_node_ip_address()}:{port}"
        nodes = {
            name: {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": 2}
            for name, resources in types.items()
        }
        config = {
            "cluster_name": "fake", "max_workers": 4, "upscaling_speed": 10,
            "idle_timeout_minutes": idle_s / 60,
            "provider": {
                "type": "fake_multinode", "gcs_address": address,
                # All nodes share an address here, by which Ray would tell the idle ones.
                "use_node_id_as_ip": True,
                # A node is a process that runs already: otherwise Ray tries to log in, and ends it.
                "disable_node_updaters": True, "disable_launch_config_check": True,
            },
            "auth": {"ssh_user": "nobody"}, "docker": {}, "file_mounts": {},
            "file_mounts_sync_continuously": False, "head_node_type": HEAD_TYPE,
            "available_node_types": {HEAD_TYPE: HEAD} | nodes,
        } | {name: [] for name in LISTS}  # fmt: skip
        path = Path(folder, "config.json")
        path.write_text(json.dumps(config))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment |= {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "HOME": folder}
        launcher = str(Path(sys.executable).with_name("ray"))
        command = [launcher, "start", "--head", "--block", "--num-cpus=0", f"--port={port}"]
        # Ray looks whether the port is free even without a dashboard.
        command += ["--include-dashboard=false", f"--dashboard-port={free_port()}"]
        command += [f"--autoscaling-config={path}"]
        of_cluster = environment | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        with Path(folder, "log").open("w") as log:
            process = subprocess.Popen(
                command, env=of_cluster, stdout=log, stderr=log, start_new_session=True
            )
        try:
            note = Path(folder, "ray", "ray_current_cluster")
            deadline = time.monotonic() + START_S
            while not note.exists() and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.2)
            assert note.exists(), Path(folder, "log").read_text()
            yield environment | {"RAY_ADDRESS": address}
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
