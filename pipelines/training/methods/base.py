"""What the loop drives: an object that takes steps, validates, and says what to save.

Methods import neither Ray nor storage, and no video library: they run where PyTorch is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipelines.video import Frames
from vqvdm.warm_start import Taken, take_over


class Batch(Protocol):
    """A worker's share of a step, from the loader or from memory."""

    @property
    def tensors(self) -> dict[str, Tensor]: ...

    def split(self, parts: int) -> Sequence[Batch]:
        """Parts of equal size, in order."""

    def to(self, device: torch.device) -> Batch: ...


class Method(Protocol):
    """What the loop needs to know of a model."""

    def start(self) -> str | None:
        """Take over the weights that the training begins with, if there are any; what was taken, in
        words. Not called when a training resumes."""

    def train_step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """One optimiser step; metrics as scalar tensors of this worker."""

    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Metrics of the averaged weights on validation batches."""

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs."""

    def load(self, state: dict[str, Any]) -> None: ...

    def export(self, folder: Path) -> None:
        """Write what the next job uses into a local folder."""

    def preview(self, batch: Batch) -> Frames | None:
        """Frames (T, H, W, 3) to look at, or None."""


class InitialWeights(Protocol):
    """Weights that a training begins with, and the classes of their model, in order; None where
    they are not known."""

    @property
    def classes(self) -> Sequence[str] | None: ...

    def weights(self) -> dict[str, Tensor]: ...


def begin_with(
    initial: InitialWeights | None, net: nn.Module, average: nn.Module, classes: Sequence[str] = ()
) -> str | None:
    """Take over initial weights, if there are any, into a net with these classes and its average;
    returns what was taken, in words. Classes that are not known are assumed to be the same if there
    is the same number of them."""
    if initial is None:
        return None
    taken = take_initial(initial, net, classes)
    average.load_state_dict(net.state_dict())
    return str(taken)


def take_initial(initial: InitialWeights, net: nn.Module, classes: Sequence[str]) -> Taken:
    """As `begin_with`, of a net alone."""
    old = classes if initial.classes is None else initial.classes
    return take_over(net, initial.weights(), old, classes)


def mean_over_parts(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Metrics of a whole batch from those of its parts."""
    return {
        name: torch.stack([part[name].detach().float() for part in parts]).mean()
        for name in parts[0]
    }
