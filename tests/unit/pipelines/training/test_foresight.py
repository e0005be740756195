"""What a training will take is foreseen from a few of its steps."""

from typing import Any

import pytest
import torch

from pipelines.training import foresight
from pipelines.training.foresight import foreseen, in_words
from pipelines.training.settings import TrainLDM, TrainVQGAN
from vqvdm.tokenizer.losses import LossConfig


class Clips:
    """Data, and their loader."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.is_closed = False

    def loader(self, split: str, **_: Any) -> Any:
        return self

    def train(self, seed: int, position: int, batch_size: int) -> Any:
        self.asked.append(batch_size)
        return iter(["batch"])

    def close(self) -> None:
        self.is_closed = True


class Slow:
    """A method whose steps take a time of their own, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
        self.seconds, self.now, self.steps = seconds, 0.0, list[int]()
        monkeypatch.setattr(foresight.time, "monotonic", lambda: self.now)

    def __call__(self, *_: object) -> Any:
        return self

    def train_step(self, batch: object, step: int) -> dict:
        self.steps.append(step)
        self.now += self.seconds[step]
        return {}


def test_the_slower_part_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of 600 steps takes four times as long, and a batch is twice the clips measured."""
    clips, slow = Clips(), Slow(monkeypatch, {0: 0.5, 599: 2.0})
    config = TrainVQGAN(steps=600, batch_size=8, loss=LossConfig(adversarial_start=0.75))
    threads = torch.get_num_threads()
    words = foreseen(config, slow, clips)
    assert words == "about 18 minutes on the cores here, 1.8 s a step"
    assert (slow.steps, clips.asked, clips.is_closed) == ([0, 0, 599, 599], [4], True)
    assert torch.get_num_threads() == threads


def test_a_slow_step_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, {0: 30.0})
    words = foreseen(TrainLDM(steps=1000, batch_size=6), slow, Clips())
    assert slow.steps == [0]
    assert words == (
        "about 25 hours on the cores here, 90 s a step; for a first try of some 10 minutes: "
        "--steps 7"
    )


def test_without_clips_nothing_is_foreseen() -> None:
    class Empty:
        def loader(self, split: str, **_: Any) -> None:
            return None

    assert foreseen(TrainLDM(), lambda *_: pytest.fail("no data"), Empty()) == ""


@pytest.mark.parametrize(
    ("step_s", "steps", "words"),
    [
        (0.01, 1000, "about a minute on the cores here"),
        (0.5, 2400, "about 20 minutes on the cores here, 0.5 s a step"),
        (0.5, 2700, "about 22 minutes on the cores here, 0.5 s a step; for a first try of some 10"
                    " minutes: --steps 1000"),
        (2.0, 200_000, "about 5 days on the cores here, 2 s a step; for a first try of some 10 "
                       "minutes: --steps 300"),
    ],
)  # fmt: skip
def test_times_in_words(step_s: float, steps: int, words: str) -> None:
    assert in_words(step_s, steps).startswith(words)


def test_the_loop_tells_when_more_is_to_come() -> None:
    assert TrainVQGAN(loss=LossConfig(adversarial_start=0.75)).slower_from == 0.75
    assert TrainVQGAN(loss=LossConfig(adversarial=0.0)).slower_from == 1.0
    assert TrainLDM().slower_from == 1.0
