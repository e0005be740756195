"""What the loop drives: an object that takes steps, validates, and says what to save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pipelines.training.loader import Batch
from pipelines.video import Frames


class Method(Protocol):
    """What the loop needs to know of a model."""

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


def mean_over_parts(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Metrics of a whole batch from those of its parts."""
    return {
        name: torch.stack([part[name].detach().float() for part in parts]).mean()
        for name in parts[0]
    }
