"""The tests of GPUs and the script that runs them are rehearsed on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tests_of_gpus_pass_at_small_sizes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "tests/gpu"],
        cwd=ROOT,
        env=os.environ | {"VQVDM_GPU_REHEARSAL": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
    assert "needs a GPU" not in done.stdout
