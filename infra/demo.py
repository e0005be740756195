"""`make demo`: every job once, submitted to a local Ray cluster, and a table of what came out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import local_cluster

STAGES = (
    "demo_videos",
    "shard_videos",
    "train_vqgan",
    "encode_latents",
    "train_ldm",
    "sample",
    "evaluate",
)
REPOSITORY = local_cluster.REPOSITORY
LOGS = REPOSITORY / "runs" / "demo-logs"
WORTH_SHOWING = re.compile(r"^(error: |\w+: |step \d|\d+/\d+ |val/)")
PREFIX = re.compile(r"\x1b\[[0-9;]*m|^\([^)]*\) ")


def submit(stage: str, address: str) -> str:
    """Run a job to its end, showing its progress; returns its main figure."""
    log = LOGS / f"{stage}.log"
    command = ["ray", "job", "submit", "--address", address, "--", f"jobs/{stage}.py"]
    figure = ""
    with (
        log.open("w") as file,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=REPOSITORY,
            env=os.environ | local_cluster.AUTHENTICATED,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            shown = PREFIX.sub("", PREFIX.sub("", line)).rstrip()
            if shown.startswith(f"{stage}: "):
                figure = shown.removeprefix(f"{stage}: ")
            elif WORTH_SHOWING.match(shown):
                print(f"    {shown}", flush=True)
    if process.returncode:
        sys.exit(f"error: {stage} failed: see {log}")
    return figure


def main() -> None:
    started = time.monotonic()
    LOGS.mkdir(parents=True, exist_ok=True)
    started_here = local_cluster.running() is None
    address = local_cluster.up()
    rows = []
    try:
        for stage in STAGES:
            print(f"{stage} …", flush=True)
            since = time.monotonic()
            figure = submit(stage, address)
            rows.append((stage, time.monotonic() - since, figure))
            print(f"    {figure}", flush=True)
    finally:
        if started_here:
            local_cluster.down()
    print(f"\n{'stage':<16}{'seconds':>8}  main figure")
    for stage, seconds, figure in rows:
        print(f"{stage:<16}{seconds:>8.0f}  {figure}")
    print(f"{'all':<16}{time.monotonic() - started:>8.0f}")
    demo = Path("runs/demo")
    print(f"\nsamples   {demo / 'samples/base/grid.gif'}")
    print(f"report    {demo / 'eval/base/report.html'}")
    print(f"bundle    {demo / 'ldm/base'}")
    print('MLflow    make ui, then http://127.0.0.1:5000, there "Model training"')


if __name__ == "__main__":
    main()
