"""Checkpoints are written beside the training: what they hold, how many, and what goes wrong."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.training import loop
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.writer import CheckpointWriter
from tests.unit.pipelines.training.test_loop import CONFIGS, Place
from vqvdm.errors import UserError

CPU = torch.device("cpu")


class Slow(Checkpoints):
    """Checkpoints that wait for permission before they are written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), "recipe", 5)
        self.begun, self.allowed = threading.Semaphore(0), threading.Semaphore(0)

    def save(self, step: int, state: Any) -> None:
        self.begun.release()
        assert self.allowed.acquire(timeout=60)
        super().save(step, state)


class Full(Checkpoints):
    def save(self, step: int, state: Any) -> None:
        raise UserError(f"no room for step {step}")


def test_what_is_written_is_the_state_when_it_was_saved(tmp_path: Path) -> None:
    checkpoints, weight = Slow(tmp_path), torch.ones(2, 3, 2, 2, 2)
    weight = weight.to(memory_format=torch.channels_last_3d)
    with CheckpointWriter(checkpoints, CPU) as writer:
        writer.save(1, {"weights": [weight, weight], "betas": (0.9, 0.99), "names": ["a"]})
        assert checkpoints.begun.acquire(timeout=60)  # Saving has returned before it is written.
        assert checkpoints.newest_step() is None
        weight.zero_()
        writer.check()
        checkpoints.allowed.release()
        assert writer.newest_step() == 1
    found = checkpoints.newest()
    assert found is not None
    assert (found["betas"], found["names"]) == ((0.9, 0.99), ["a"])
    assert all(torch.equal(each, torch.ones_like(weight)) for each in found["weights"])


def test_one_is_written_at_a_time(tmp_path: Path) -> None:
    checkpoints = Slow(tmp_path)
    with CheckpointWriter(checkpoints, CPU) as writer, ThreadPoolExecutor(1) as other:
        writer.save(1, {})
        assert checkpoints.begun.acquire(timeout=60)
        second = other.submit(writer.save, 2, {})
        assert not wait([second], timeout=0.2).done
        checkpoints.allowed.release()
        second.result(60)
        assert checkpoints.newest_step() == 1
        checkpoints.allowed.release()
    assert checkpoints.newest_step() == 2  # The end waited for it.


def test_the_one_that_is_being_written_is_finished_whatever_goes_wrong(tmp_path: Path) -> None:
    checkpoints = Slow(tmp_path)
    with pytest.raises(KeyError), CheckpointWriter(checkpoints, CPU) as writer:
        writer.save(1, {})
        checkpoints.allowed.release()
        raise KeyError
    assert checkpoints.newest_step() == 1


def check_for_a_minute(writer: CheckpointWriter) -> None:
    for _ in range(6000):
        writer.check()
        time.sleep(0.01)


def test_what_goes_wrong_is_raised_once(tmp_path: Path) -> None:
    with CheckpointWriter(Full(str(tmp_path), "recipe", 2), CPU) as writer:
        for ask in (check_for_a_minute, CheckpointWriter.wait, CheckpointWriter.newest_step):
            writer.save(7, {})
            with pytest.raises(UserError, match="no room for step 7"):
                ask(writer)
            writer.check()
    with pytest.raises(UserError), CheckpointWriter(Full(str(tmp_path), "r", 2), CPU) as writer:
        writer.save(7, {})
    with pytest.raises(KeyError), CheckpointWriter(Full(str(tmp_path), "r", 2), CPU) as writer:
        writer.save(7, {})
        raise KeyError


@pytest.mark.parametrize("every", [2, 4])
def test_a_training_whose_checkpoint_fails_ends(
    tmp_path: Path, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, replace(CONFIGS["ldm"], steps=4, checkpoint_every=every))
    monkeypatch.setattr(Checkpoints, "save", Full.save)
    with pytest.raises(UserError, match=f"no room for step {every}"):
        place.run("whole")


def test_the_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, replace(CONFIGS["ldm"], steps=3, checkpoint_every=1))
    logged = threading.Semaphore(0)
    save, log = Checkpoints.save, loop._log

    def after_the_next_step(self: Checkpoints, step: int, state: Any) -> None:
        assert step == 3 or logged.acquire(timeout=60)
        save(self, step, state)

    def note(*args: Any) -> None:
        if args[1] > 1:
            logged.release()
        log(*args)

    monkeypatch.setattr(Checkpoints, "save", after_the_next_step)
    monkeypatch.setattr(loop, "_log", note)
    place.run("whole")
    assert Checkpoints(str(tmp_path / "whole"), "recipe", 2).newest_step() == 3
