"""Checkpoints: the newest intact one counts."""

import resource
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.io import lock, storage
from pipelines.training.checkpoints import Checkpoints, KeyLog, consumed
from vqvdm.errors import UserError


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": {"w": torch.full((4,), float(step))}, "betas": (0.9, 0.99)}


def filled(folder: str | Path, *steps: int, keep: int = 5) -> Checkpoints:
    checkpoints = Checkpoints(str(folder), "recipe", keep)
    for step in steps:
        checkpoints.save(step, state(step))
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def newest_step(checkpoints: Checkpoints) -> int | None:
    found = checkpoints.newest()
    return found["step"] if found else None


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("remote", [False, True])
def test_the_newest_state_comes_back(tmp_path: Path, remote: bool) -> None:
    folder = f"memory://{uuid.uuid4().hex}/vqgan/base" if remote else str(tmp_path)
    filled(folder, 2, 9, 10)
    found = Checkpoints(folder, "recipe", 5).newest()
    assert found is not None
    assert (found["step"], found["betas"]) == (10, (0.9, 0.99))
    assert torch.equal(found["weights"]["w"], torch.full((4,), 10.0))


def test_nothing_is_found_where_nothing_was_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path / "never"), "recipe", 2)
    assert checkpoints.newest() is None
    assert checkpoints.found() is None
    assert checkpoints.newest_step() is None


def test_a_damaged_checkpoint_is_named_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = filled(tmp_path, 1, 2)
    damage(tmp_path / "checkpoints/step-00000002.safetensors")
    assert newest_step(checkpoints) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert "step-00000002.safetensors" in lines[0]
    assert "is damaged: skipped" in lines[0]


def test_a_checkpoint_without_its_file_is_skipped(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1, 2)
    (tmp_path / "checkpoints/step-00000002.safetensors").unlink()
    assert newest_step(checkpoints) == 1


def test_a_checkpoint_with_an_empty_marker_is_skipped(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1, 2)
    (tmp_path / "checkpoints/step-00000002.json").write_bytes(b"")
    assert newest_step(checkpoints) == 1


def test_none_is_returned_if_all_are_damaged(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1, 2)
    for step in (1, 2):
        damage(tmp_path / f"checkpoints/step-0000000{step}.safetensors")
    assert checkpoints.newest() is None


@pytest.mark.parametrize("keep", [1, 2])
def test_the_oldest_ones_are_dropped(tmp_path: Path, keep: int) -> None:
    filled(tmp_path, 1, 2, 3, keep=keep)
    kept = [f"step-0000000{step}" for step in (1, 2, 3)[-keep:]]
    assert names(tmp_path) == [
        f"{name}.{kind}" for name in kept for kind in ("json", "safetensors")
    ]


def test_a_file_without_a_marker_does_not_exist(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1, 2)
    (tmp_path / "checkpoints/step-00000002.json").unlink()
    assert newest_step(checkpoints) == 1
    checkpoints.save(2, state(2))  # the step is trained again
    assert newest_step(checkpoints) == 2


def test_what_an_earlier_training_was_is_found(tmp_path: Path) -> None:
    Checkpoints(str(tmp_path), "recipe", 2, {"clips": "abc"}).save(1, state(1))
    found = Checkpoints(str(tmp_path), "another", 2).found()
    assert found is not None
    assert (found["recipe"], found["inputs"], found["step"]) == ("recipe", {"clips": "abc"}, 1)


def test_bytes_that_did_not_arrive_get_no_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = filled(tmp_path, 1)
    publish = storage.publish_file

    def garble(source: Path, uri: str) -> None:
        publish(source, uri)
        if uri.endswith(".safetensors"):
            damage(Path(uri))

    monkeypatch.setattr(storage, "publish_file", garble)
    with pytest.raises(UserError, match=r"step 2.*other bytes.*step 1 is intact"):
        checkpoints.save(2, state(2))
    assert newest_step(checkpoints) == 1


def test_a_full_disk_stops_with_one_line_and_the_last_checkpoint(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1)
    with (
        limited_files(1000),  # as a full disk: writes fail half-way
        pytest.raises(UserError, match=r"step 2 .*step 1 is intact.*make room.*same command"),
    ):
        checkpoints.save(2, {"weights": torch.zeros(10_000)})
    assert newest_step(checkpoints) == 1
    assert names(tmp_path) == ["step-00000001.json", "step-00000001.safetensors"]
    checkpoints.save(2, state(2))
    assert newest_step(checkpoints) == 2


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Writing more than so many bytes to a file fails in the kernel."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_no_checkpoint_is_published_after_another_job_took_over(tmp_path: Path) -> None:
    with lock.writing(str(tmp_path), "train_ldm") as owner:
        second = Checkpoints(str(tmp_path), "recipe", 2, owner=owner)
        second.save(1, state(1))
        other = Checkpoints(str(tmp_path), "recipe", 2, owner="somebody who thinks he holds it")
        with pytest.raises(UserError, match="taken over"):
            other.save(2, state(2))
    assert newest_step(second) == 1


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints"
    (folder / "step-00000002.json").unlink()
    (folder / ".step-00000003.safetensors.abc.part").write_bytes(b"half")
    checkpoints.sweep()
    assert names(tmp_path) == ["step-00000001.json", "step-00000001.safetensors"]


def test_keys_count_with_their_checkpoint(tmp_path: Path) -> None:
    log = KeyLog(str(tmp_path))
    log.note(1, ["a", "b"])
    log.note(2, ["c", "d"])
    log.publish(2)
    log.note(3, ["lost", "lost"])
    log.publish(3)
    again = KeyLog(str(tmp_path))
    again.forget_after(2)
    again.note(3, ["e", "f"])
    again.publish(3)
    assert consumed(str(tmp_path)) == [["a", "b"], ["c", "d"], ["e", "f"]]
