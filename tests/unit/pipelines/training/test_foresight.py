"""What a training will take is foreseen from a few of its steps."""

from typing import Any

import pytest
import torch

from benchmarks.memory import MemoryBatch
from pipelines.training import foresight
from pipelines.training.foresight import foreseen, in_words, memory_in_words
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
        return iter([MemoryBatch({"clip": torch.zeros(batch_size)})])

    def close(self) -> None:
        self.is_closed = True


class Slow:
    """A method whose steps take a time of their own, by a clock of its own, and memory by the
    clip."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
        self.seconds, self.now, self.peak_gib = seconds, 0.0, 0.0
        self.steps: list[tuple[int, int]] = []
        monkeypatch.setattr(foresight.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(foresight, "forget_peak", self.forget)
        monkeypatch.setattr(foresight, "peak_gib", lambda device: self.peak_gib)

    def __call__(self, *_: object) -> Any:
        return self

    def forget(self, device: torch.device) -> None:
        self.peak_gib = 0.0

    def train_step(self, batch: MemoryBatch, step: int) -> dict:
        clips = len(batch)
        self.steps.append((clips, step))
        self.now += self.seconds[step]
        self.peak_gib = max(self.peak_gib, 0.5 + 0.25 * clips + 0.001 * step)
        return {}


CPU = torch.device("cpu")


def test_the_slower_part_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of 600 steps takes four times as long, and a batch is twice the clips measured."""
    clips, slow = Clips(), Slow(monkeypatch, {0: 0.5, 599: 2.0})
    config = TrainVQGAN(steps=600, batch_size=8, loss=LossConfig(adversarial_start=0.75))
    threads = torch.get_num_threads()
    words = foreseen(config, slow, clips, 1, CPU)
    assert words.startswith("about 18 minutes on the cores here, 1.8 s a step;")
    assert slow.steps == [(4, 0), (4, 0), (4, 599), (4, 599), (8, 599)]
    assert (clips.asked, clips.is_closed) == ([8], True)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("workers", "accumulate", "gib"),
    [(1, 1, "9.1"), (2, 1, "5.1"), (2, 4, "2.1"), (8, 1, "2.1"), (8, 4, "1.3"), (32, 1, "1.3")],
)
def test_the_memory_of_a_worker_is_that_of_its_share(
    workers: int, accumulate: int, gib: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 32 clips, of which 4 and 8 were tried: half a GiB, a quarter for each, 0.6 at the end."""
    slow = Slow(monkeypatch, {0: 0.5, 599: 2.0})
    loss = LossConfig(adversarial_start=0.75)
    config = TrainVQGAN(steps=600, batch_size=32, accumulate=accumulate, loss=loss)
    assert f"; a worker takes about {gib} GiB of memory;" in foreseen(
        config, slow, Clips(), workers, CPU
    )


def test_a_slow_step_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, {0: 30.0, 999: 30.0})
    words = foreseen(TrainLDM(steps=1000, batch_size=6), slow, Clips(), 1, CPU)
    assert slow.steps == [(4, 0), (8, 999)]
    assert words == (
        "about 12 hours on the cores here, 45 s a step; a worker takes about 2.5 GiB of memory; "
        "for a first try of some 10 minutes: --steps 10"
    )


def test_a_system_that_tells_no_memory_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, {0: 0.1})
    monkeypatch.setattr(foresight, "peak_gib", lambda device: None)
    words = foreseen(TrainLDM(steps=1000, batch_size=4), slow, Clips(), 1, CPU)
    assert words == "about 2 minutes on the cores here, 0.1 s a step"


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
    assert in_words(step_s, steps, "on the cores here").startswith(words)


def test_of_a_gpu_what_is_reserved_is_told_too() -> None:
    assert (
        memory_in_words(12.34, 14.26)
        == "a worker takes about 12.3 GiB of its GPU, 14.3 GiB reserved"
    )


def test_the_loop_tells_when_more_is_to_come() -> None:
    assert TrainVQGAN(loss=LossConfig(adversarial_start=0.75)).slower_from == 0.75
    assert TrainVQGAN(loss=LossConfig(adversarial=0.0)).slower_from == 1.0
    assert TrainLDM().slower_from == 1.0
