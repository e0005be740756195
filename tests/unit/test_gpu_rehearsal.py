"""The tests of GPUs and the script that runs them are rehearsed on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
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


STUB = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
    *"-m pytest"*) exit "$OF_TESTS";;
    *) exit "$OF_BENCHMARK";;
esac
"""


@pytest.mark.parametrize(
    ("of_tests", "of_benchmark", "first", "status"),
    [(0, 0, "tests", 0), (1, 0, "tests", 1), (0, 2, "benchmark", 2), (124, 124, "benchmark", 0)],
)
def test_one_command_does_all(
    tmp_path: Path, of_tests: int, of_benchmark: int, first: str, status: int
) -> None:
    python = tmp_path / "python"
    python.write_text(STUB)
    python.chmod(0o755)
    environment = {
        "PYTHON": str(python), "OUT": str(tmp_path / "out"), "CALLS": str(tmp_path / "calls"),
        "MINUTES": "2", "OF_TESTS": str(of_tests), "OF_BENCHMARK": str(of_benchmark),
        "BENCHMARK_FIRST": str(int(first == "benchmark")),
    }  # fmt: skip
    script = str(ROOT / "tests" / "gpu" / "run.sh")
    done = subprocess.run(
        [script], cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2
    names = ["tests" if "-m pytest" in call else "benchmark" for call in calls]
    assert names[0] == first
    (benchmark,) = (call for call in calls if "benchmarks.gpu" in call)
    assert f"--out {tmp_path / 'out'}/gpu.json" in benchmark
    # Two fifths of two minutes are for the tests; the benchmark has what they leave, or the rest,
    # and starts no part in the last seventh of that.
    minutes = 2.0 if first == "tests" else 1.2
    assert 0.9 * minutes * 0.85 < float(benchmark.split("--minutes ")[1].split()[0])
    assert float(benchmark.split("--minutes ")[1].split()[0]) <= minutes * 0.85
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "gpu_tests.log", "gpu_benchmark.log",
    }  # fmt: skip
