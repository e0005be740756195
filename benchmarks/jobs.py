"""Jobs run inside a benchmark, on a Ray of its own."""

from __future__ import annotations

import contextlib
import io
import sys

import ray

from pipelines.cluster.join import ray_options
from pipelines.recipes import cli


def own_ray(trains: bool = False) -> None:
    """Start Ray in this process, whichever cluster runs besides.

    Only a training has use for the dashboard, which what Ray Train runs beside it asks.
    """
    ray.init(include_dashboard=trains, **ray_options(own=True))


def job(page: cli.Page, *arguments: str) -> str:
    """Run a job's command line, which is printed; returns its main figure."""
    print("$ python", f"jobs/{page.__name__}.py", " ".join(arguments), file=sys.stderr, flush=True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = cli.run(page, list(arguments))
    if status:
        sys.exit(status)
    return out.getvalue().splitlines()[-1]
