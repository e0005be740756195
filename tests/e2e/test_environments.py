"""Jobs run in unusual environments: no home, a C locale, a long temporary folder, odd paths."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from pipelines.sharding import manifest
from tests.playable_videos import write_file

REPOSITORY = Path(__file__).parents[2]
NO_HOME_IN_A_C_LOCALE = {"HOME": "/proc/nowhere", "LC_ALL": "C", "PYTHONUTF8": "0"}


@pytest.mark.e2e
def test_a_job_runs_without_a_home_in_a_c_locale_and_a_long_temporary_folder(tmp_path: Path):
    """From a clone whose path is odd too, with a Python of its own; on videos of odd names."""
    folder = tmp_path / "vidéos" / "чай 茶"
    folder.mkdir(parents=True)
    video = np.random.default_rng(0).integers(0, 256, (32, 64, 64, 3), np.uint8)
    write_file(folder / "🎬.mp4", video, 16.0)
    odd = os.fsencode(folder) + b"/\xff\xfe.mp4"
    with open(odd, "wb") as file:
        file.write((folder / "🎬.mp4").read_bytes())
    os.mkfifo(folder / "pipe.mp4")
    temporary = tmp_path / ("x" * 70)
    temporary.mkdir()
    changes = NO_HOME_IN_A_C_LOCALE | {"TMPDIR": str(temporary)}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    environment.pop("PYTHONPATH", None)
    environment |= {"RAY_ADDRESS": "local", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/m.db"}
    clone, python = odd_clone(tmp_path / ".hidden ü" / "my clone")
    command = [str(python), str(clone / "jobs/shard_videos.py"), "--root", str(tmp_path / "root")]
    done = subprocess.run(
        [*command, "--videos", str(folder.parent)],
        cwd=tmp_path, env=environment | changes, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"the code beside the job" in done.stdout
    assert b"oken" not in done.stderr, done.stderr.decode(errors="replace")
    rows = manifest.read(str(tmp_path / "root/videos.parquet")).to_pylist()
    found = sorted((row["label"], row["status"], row["clips"]) for row in rows)
    assert found == [("чай 茶", "ok", 3)] * 2 + [("чай 茶", "rejected", 0)]


def odd_clone(clone: Path) -> tuple[Path, Path]:
    """A copy of the repository that says so, and a Python in it that knows the installed packages.

    One of these is the repository that the tests are of: the copy has to go before it.
    """
    for package in ("jobs", "pipelines", "vqvdm"):
        shutil.copytree(REPOSITORY / package, clone / package)
    page = clone / "pipelines" / "shard_videos.py"
    page.write_text(page.read_text() + '\n\nprint("the code beside the job")\n')
    command = [sys.executable, "-m", "venv", "--without-pip", clone / ".venv"]
    subprocess.run(command, check=True, timeout=60)
    [packages] = (clone / ".venv" / "lib").glob("python*/site-packages")
    (packages / "installed.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    return clone, clone / ".venv" / "bin" / "python"
