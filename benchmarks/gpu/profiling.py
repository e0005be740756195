"""Where a GPU's time goes: its kernels by their share, and how long it stands idle."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.setup import Setup

CALLS = 3
ROWS = 30


def kernels(setup: Setup, name: str, work: Callable[[], object]) -> None:
    """Append the kernels of some work to `*_kernels.txt` beside the figures, and record the share
    of the time in which the GPU computes. Nothing on a CPU."""
    if not setup.is_gpu:
        return
    work()
    setup.wait()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        since = time.perf_counter()
        for _ in range(CALLS):
            work()
        setup.wait()
        taken = time.perf_counter() - since
    averages = found.key_averages()
    busy = sum(each.self_device_time_total for each in averages) / 1e6
    path = setup.record.path
    table = averages.table(
        sort_by="self_device_time_total", row_limit=ROWS, max_name_column_width=110
    )
    with path.with_name(f"{path.stem}_kernels.txt").open("a") as file:
        file.write(f"## {name}: {1e3 * taken / CALLS:.3f} ms a call, {CALLS} calls\n{table}\n\n")
    setup.record.add(f"GPU busy in {name}", [busy / taken], "of the time")
    torch.cuda.empty_cache()
