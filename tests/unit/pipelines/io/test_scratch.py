"""Temporary folders are removed however their process ends."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipelines.io.scratch import PREFIX, SharedScratch, scratch

MAKER = """
import time
from pipelines.io.scratch import scratch
with scratch() as folder:
    (folder / "large").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_folder_lives_as_long_as_its_block(tmp_path: Path) -> None:
    with pytest.raises(KeyError), scratch() as folder:
        (folder / "file").write_text("")
        with scratch() as other:
            assert other != folder
        assert (folder / "file").exists()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout
        left = Path(maker.stdout.readline().strip())
        with scratch():
            assert (left / "large").exists()  # Its process is alive.
        maker.send_signal(signal.SIGKILL)
    assert left.exists() and left.name.startswith(PREFIX)
    with scratch() as folder:
        assert [*tmp_path.iterdir()] == [folder]


def test_other_folders_are_kept(tmp_path: Path) -> None:
    (tmp_path / "somebody-elses").mkdir()
    (tmp_path / f"{PREFIX}unlocked").mkdir()  # It is just being made.
    with scratch():
        pass
    assert len(list(tmp_path.iterdir())) == 2


SHARER = """
import sys, time
from pipelines.io.scratch import SharedScratch
shared = SharedScratch("job")
(shared.folder / "large").write_bytes(b"x" * 1000)
print(shared.folder, flush=True)
time.sleep(60)
"""


def test_the_last_process_removes_a_shared_folder(tmp_path: Path) -> None:
    first, second = SharedScratch("job"), SharedScratch("job")
    assert first.folder == second.folder == tmp_path / f"{PREFIX}job"
    (first.folder / "file").write_text("")
    first.close()
    with scratch():
        assert (second.folder / "file").exists()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_a_shared_folder_outlives_a_killed_process_that_is_not_the_last(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SHARER], stdout=subprocess.PIPE, text=True
    ) as sharer:
        assert sharer.stdout and sharer.stdout.readline()
        mine = SharedScratch("job")
        assert (mine.folder / "large").exists()
        sharer.send_signal(signal.SIGKILL)
    with scratch():
        assert (mine.folder / "large").exists()
    mine.close()
    assert list(tmp_path.iterdir()) == []


def test_what_only_killed_processes_shared_is_not_used_again(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SHARER], stdout=subprocess.PIPE, text=True
    ) as sharer:
        assert sharer.stdout and sharer.stdout.readline()
        sharer.send_signal(signal.SIGKILL)
    mine = SharedScratch("job")
    assert [path.name for path in mine.folder.iterdir()] == [".lock"]
    mine.close()
