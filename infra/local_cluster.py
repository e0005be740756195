"""A Ray cluster on this machine: `up` starts it, `down` stops it.

It is identified by its process, which is known by its number, when it was started and since which
start of the machine, so that no other Ray on the machine is touched, and nothing else.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from pipelines.cluster.join import cluster_note, noted_cluster_answers
from pipelines.io import storage, workspace
from pipelines.io.processes import born, machine

REPOSITORY = Path(__file__).resolve().parent.parent
STATE = REPOSITORY / "runs" / "ray_cluster.json"
LOG = REPOSITORY / "runs" / "ray_cluster.log"
PORT = 8265
AUTHENTICATED = {"RAY_AUTH_MODE": "token"}
"""What a process needs to talk to the cluster, besides the token in ~/.ray."""
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 10


def running() -> dict | None:
    """Process and address of the cluster that `up` started, or None."""
    state = workspace.published(str(STATE.parent), STATE.name)
    is_whole = isinstance(state, dict) and {"pid", "born", "machine", "address"} <= state.keys()
    if not is_whole or state["machine"] != machine():
        return None
    return state if state["born"] and state["born"] == born(state["pid"]) else None


def healthy(address: str) -> bool:
    """Whether the dashboard, which takes jobs, answers; any HTTP status is an answer."""
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def is_ray(address: str) -> bool:
    """Whether it is a Ray that answers: it tells its version, or wants its token."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=5) as answer:
            return b"ray_version" in answer.read(10_000)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, http.client.HTTPException):
        return False


def free_port(wanted: int) -> int:
    """A port that nothing listens on: the wanted one if possible."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as server:
            return server.getsockname()[1]
    sys.exit("error: no port of 127.0.0.1 is free")


def up(wanted: int = PORT) -> str:
    """Start a cluster that runs jobs in the repository; returns the address for jobs.

    Where another program has the wanted port, a free one is taken.
    """
    state = running()
    if state:
        print(f"a cluster runs already at {state['address']}")
        return state["address"]
    if " " in sys.executable:
        sys.exit(
            f"error: Ray starts no cluster from a path with a space ({sys.executable}): move the "
            "repository; `python jobs/…` runs here too, without a cluster"
        )
    address = f"http://127.0.0.1:{wanted}"
    if is_ray(address):
        sys.exit(f"error: another Ray already answers at {address}: stop it with `ray stop`")
    port = free_port(wanted)
    if port != wanted:
        print(f"note: port {wanted} is taken by another program: Ray gets {port}")
    address = f"http://127.0.0.1:{port}"
    STATE.parent.mkdir(exist_ok=True)
    environment = os.environ | AUTHENTICATED | {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
    subprocess.run(
        ["ray", "get-auth-token", "--generate"],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=START_TIMEOUT_S,
    )
    # The note of an earlier cluster would send the first job to an address that does not answer.
    cluster_note().unlink(missing_ok=True)
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={port}"]
    # Free ports instead of the fixed defaults, which another Ray, or Redis, may use.
    command += ["--port=0", "--dashboard-agent-listen-port=0"]
    with LOG.open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    identity = {"pid": process.pid, "born": born(process.pid), "machine": machine()}
    storage.publish_json(identity | {"address": address}, str(STATE))
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (cluster_note().exists() and healthy(address)):
        if process.poll() is not None or time.monotonic() > deadline:
            down()
            sys.exit(f"error: Ray did not start: see {LOG}")
        time.sleep(0.5)
    print(f"Ray takes jobs at {address}; in a shell with .venv activated:")
    print("  export RAY_AUTH_MODE=token")
    print("  ray job submit -- jobs/shard_videos.py --videos ~/videos --root ~/vqvdm-root")
    return address


def down() -> None:
    """Stop the cluster that `up` started."""
    state = running()
    if state:
        # Ray's launcher ends its own processes; those that outlive it share its group.
        try:
            with contextlib.suppress(ProcessLookupError):
                os.kill(state["pid"], signal.SIGTERM)
        except PermissionError:
            sys.exit(
                f"error: another user has started the cluster at {state['address']} (process "
                f"{state['pid']}): only they can stop it"
            )
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while _alive(state) and time.monotonic() < deadline:
            time.sleep(0.2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(state["pid"], signal.SIGKILL)
        # Otherwise other processes would be sent to an address that does not answer.
        if not noted_cluster_answers():
            cluster_note().unlink(missing_ok=True)
    STATE.unlink(missing_ok=True)


def _alive(state: dict) -> bool:
    # A process that this one started stays after its end until it is waited for.
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(state["pid"], os.WNOHANG)[0] == state["pid"]:
            return False
    return born(state["pid"]) == state["born"]


if __name__ == "__main__":
    {"up": up, "down": down}[sys.argv[1]]()
