"""Attempts of a training: what each goes on from, and when there is no other."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.io import storage
from pipelines.io.arrays import latent_arrays
from pipelines.training import stop
from pipelines.training.checkpoints import Reference
from pipelines.training.loader import Loader
from pipelines.training.loop import train
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.trainer import (
    ATTEMPTS,
    Data,
    Plan,
    _until_done,
    cure_for_memory,
    settled_precision,
    validation_batches,
)
from pipelines.training.world import World
from tests.unit.pipelines.training.test_loop import CONFIGS, Place, leaves, same
from vqvdm.errors import UserError
from vqvdm.inference import Precision

FOUR = replace(CONFIGS["ldm"], checkpoint_every=1, keep=3)


@pytest.fixture(autouse=True)
def not_stopped() -> None:
    stop._requested.clear()


class Training:
    """A training whose attempts run in this process."""

    def __init__(self, tmp_path: Path, name: str = "trained") -> None:
        self.place = Place(tmp_path, FOUR)
        data = Data(
            str(tmp_path / "data"),
            self.place.markers,
            "job",
            partial(latent_arrays, classes=["a", "b"]),
        )
        folder = str(tmp_path / name)
        self.plan = Plan(FOUR, LDMMethod, data, folder, "recipe", "", "")
        self.begun: list[int] = []

    def attempt(self, plan: Plan) -> BaseException | None:
        loader = Loader(plan.data.folder, plan.data.markers, "job", plan.data.decode)
        method = LDMMethod(plan.config, World(), self.place.index)
        self.begun.append(plan.resume.step if plan.resume else 0)
        torch.manual_seed(len(self.begun))  # the state of the global generator does not matter
        train(method, plan.config, World(), loader, lambda: [], plan.checkpoints(), None)
        return None

    def finish(self) -> dict[str, Any]:
        """Train until it is done; returns all that a checkpoint holds."""
        _until_done(self.plan, self.attempt)
        found = leaves(self.plan.checkpoints().load(self.newest))
        # Tensors lie in the file, which tests damage.
        return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in found.items()}

    @property
    def newest(self) -> Reference:
        found = self.plan.checkpoints().newest_intact()
        assert found
        return found


def truncate(path: Path) -> None:
    path.with_suffix(".safetensors").write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "flipped": flip,
    "no file": lambda path: path.unlink(),
    "no marker": lambda path: path.with_suffix(".json").unlink(),
    "half a marker": lambda path: path.with_suffix(".json").write_text('{"step": 4}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = Training(tmp_path)
    whole = training.finish()
    assert training.begun == [0]
    last = tmp_path / "trained/checkpoints/step-00000004.safetensors"
    DAMAGES[damage](last)
    capsys.readouterr()
    again = training.finish()
    assert training.begun == [0, 3]
    said = capsys.readouterr().out
    assert f"{last} " in said and "removed" in said
    assert "resuming at step 3" in said
    assert [path for path in whole if not same(whole[path], again[path])] == []


def test_a_damaged_one_does_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    checkpoints = replace(Training(tmp_path).plan, config=replace(FOUR, keep=2)).checkpoints()
    for step in (10, 20):
        checkpoints.save(step, {"step": step})
    flip(tmp_path / "trained/checkpoints/step-00000020.safetensors")
    found = checkpoints.newest_intact()
    assert found and found.step == 10
    checkpoints.save(12, {"step": 12})
    checkpoints.save(14, {"step": 14})
    found = checkpoints.newest_intact()
    assert found and checkpoints.load(found) == {"step": 14}
    names = sorted(path.name for path in (tmp_path / "trained/checkpoints").glob("*.json"))
    assert names == ["step-00000012.json", "step-00000014.json"]


def test_all_workers_load_the_same_bytes(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.finish()
    agreed = training.newest
    mine = replace(training.plan, resume=agreed).checkpoints()
    assert mine.newest()["step"] == 4
    # A disk of this node alone holds another training, or an earlier state of this one.
    other = replace(training.plan, resume=Reference(4, "0" * 64)).checkpoints()
    with pytest.raises(UserError, match=r"step-00000004.* is not the checkpoint .*not shared"):
        other.newest()
    later = replace(training.plan, resume=Reference(5, agreed.sha256)).checkpoints()
    with pytest.raises(UserError, match=r"step-00000005.*not shared.*s3://"):
        later.newest()
    assert training.plan.checkpoints().newest() is None  # all begin anew, whatever lies here


def test_checkpoints_that_never_arrive_end_the_job(tmp_path: Path) -> None:
    training = Training(tmp_path)
    elsewhere = str(tmp_path / "disk of another node")

    def on_another_node(plan: Plan) -> BaseException | None:
        return training.attempt(replace(plan, folder=elsewhere))

    with pytest.raises(UserError, match=rf"trained {ATTEMPTS} times without a new checkpoint"):
        _until_done(training.plan, on_another_node)
    assert training.begun == [0] * ATTEMPTS


@pytest.mark.parametrize("steps", [(), (1,), (1, 2)])
def test_failures_count_from_the_last_checkpoint(steps: tuple[int, ...], tmp_path: Path) -> None:
    training, begun = Training(tmp_path), []

    def die(plan: Plan) -> BaseException | None:
        begun.append(plan.resume.step if plan.resume else 0)
        if len(begun) <= len(steps):
            plan.checkpoints().save(steps[len(begun) - 1], {"step": steps[len(begun) - 1]})
        return OSError("gone")

    with pytest.raises(OSError, match="gone"):
        _until_done(training.plan, die)
    assert begun == ([0, *steps] + [steps[-1] if steps else 0] * (ATTEMPTS - 1))[: len(begun)]
    assert len(begun) == len(steps) + ATTEMPTS - bool(steps)


def test_a_users_mistake_is_not_tried_again(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with pytest.raises(UserError, match="pass --root"):
        _until_done(training.plan, lambda _: UserError("pass --root"))


def test_what_was_not_finished_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = tmp_path / "trained/checkpoints/step-00000009.safetensors"
    storage.publish_bytes(b"half", str(left))
    Training(tmp_path).plan.checkpoints().sweep()
    assert f"{left} has no marker" in capsys.readouterr().out
    assert not left.exists()


def test_validation_clips_are_read_once_and_kept(tmp_path: Path) -> None:
    training = Training(tmp_path)
    held_out = [replace(marker, name=f"val{marker.name[5:]}") for marker in training.place.markers]
    for path in (tmp_path / "data").glob("train-*"):
        path.rename(path.with_name(f"val{path.name[5:]}"))
    data = replace(training.plan.data, markers=[*training.place.markers, *held_out])
    batches = validation_batches(replace(training.plan, data=data))
    first = batches()
    assert [key for batch in first for key in batch.keys] == [
        key for marker in held_out for key in marker.keys
    ]
    storage.delete(str(tmp_path / "data"))
    assert all(a is b for a, b in zip(first, batches(), strict=True))


def test_without_validation_clips_there_are_no_batches(tmp_path: Path) -> None:
    assert validation_batches(Training(tmp_path).plan)() == []


AMPERE: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
TURING: tuple[Precision, ...] = ("fp16", "fp32")


def settled(patch: pytest.MonkeyPatch, plan: Plan, *cards: tuple[Precision, ...]) -> set[str]:
    """What each of the workers on such cards computes in."""
    patch.setattr(World, "gather_objects", lambda *_: list(cards))
    ranks = [World(rank, len(cards)) for rank in range(len(cards))]
    return {settled_precision(plan, world) for world in ranks}


def test_workers_on_different_cards_compute_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gradients of one that scales its losses would be averaged with those of one that does not."""
    config = replace(FOUR, precision="auto")
    plan = replace(Training(tmp_path).plan, config=config)
    assert settled(monkeypatch, plan, AMPERE, AMPERE) == {"bf16"}
    assert settled(monkeypatch, plan, AMPERE, TURING) == {"fp16"}
    asked = replace(plan, config=replace(config, precision="bf16"))
    assert settled(monkeypatch, asked, AMPERE, TURING) == {"bf16"}
    assert not capsys.readouterr().out
    begun = replace(plan, precision="fp16")
    assert settled(monkeypatch, begun, AMPERE) == {"fp16"}
    assert capsys.readouterr().out == "continuing in fp16, as this training was begun\n"
    begun = replace(plan, precision="bf16")
    assert settled(monkeypatch, begun, TURING, AMPERE) == {"fp16"}
    from_cpu = replace(plan, precision="fp32")
    assert settled(monkeypatch, from_cpu, AMPERE, AMPERE) == {"bf16"}
    said = capsys.readouterr().out
    assert said.startswith("note: this training was begun in bf16") and said.count("\n") == 1


def test_a_training_goes_on_in_the_precision_of_its_checkpoint(tmp_path: Path) -> None:
    training, seen = Training(tmp_path), list[str | None]()

    def attempt(plan: Plan) -> None:
        seen.append(plan.precision)
        fewer = replace(plan.config, steps=len(seen) * 2)
        training.attempt(replace(plan, config=fewer, precision="fp16"))

    _until_done(training.plan, attempt)
    assert seen == [None, "fp16"]


def test_flags_for_less_memory_are_named_in_their_order() -> None:
    config = replace(FOUR, accumulate=2)
    both = "pass --activation-checkpointing, and if that is not enough, --accumulate 4"
    assert cure_for_memory(config) == both
    less = cure_for_memory(replace(config, activation_checkpointing=True))
    assert less.startswith("pass --accumulate 4")
