"""Results stay the same: the small run gives the recorded checksums."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.e2e
def test_the_small_run_gives_the_recorded_sums(tmp_path: Path) -> None:
    command = [sys.executable, str(GOLDEN / "small_run.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    wanted = json.loads((GOLDEN / "small_run.json").read_text())
    found = json.loads((tmp_path / "outcome.json").read_text())
    assert found["fingerprints"] == wanted["fingerprints"]
    assert found["figures"] == pytest.approx(wanted["figures"], rel=0.02)
    # Other versions of these packages may round or compress differently.
    if found["environment"] == wanted["environment"]:
        assert found["sums"] == wanted["sums"]
