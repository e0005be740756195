"""Checkpoints: the newest intact one counts."""

import uuid
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.training.checkpoints import Checkpoints


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
    assert checkpoints.found_recipe() is None


def test_a_damaged_checkpoint_is_named_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = filled(tmp_path, 1, 2)
    damage(tmp_path / "checkpoints/step-00000002.safetensors")
    assert newest_step(checkpoints) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert "step-00000002.safetensors" in lines[0]
    assert "passed over" in lines[0]


def test_a_checkpoint_without_its_file_is_passed_over(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1, 2)
    (tmp_path / "checkpoints/step-00000002.safetensors").unlink()
    assert newest_step(checkpoints) == 1


def test_a_checkpoint_with_an_empty_marker_is_passed_over(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1, 2)
    (tmp_path / "checkpoints/step-00000002.json").write_bytes(b"")
    assert newest_step(checkpoints) == 1


def test_only_damaged_ones_are_none_at_all(tmp_path: Path) -> None:
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


def test_the_recipe_of_an_earlier_training_is_found(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    assert Checkpoints(str(tmp_path), "another", 2).found_recipe() == "recipe"
