"""The pipelines: one page for each job on top, and below the packages that it uses."""

import os

# Ray reads it when it is imported. By `uv run` it would let uv make an environment anew for each
# worker, from a copy of the repository that lacks the one which runs the job.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
