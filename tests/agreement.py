"""Whether two computations of the same thing agree."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Of the norm: what rounding makes of a whole net in each arithmetic."""


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference, as a part of that of what is expected."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    assert found.shape == expected.shape
    return ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()


def differing(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], absolute: float = 1e-3
) -> dict[str, tuple[float, float]]:
    """Metrics that differ by more than a hundredth and `absolute`: means near zero cancel."""
    assert found.keys() == expected.keys()
    pairs = {name: (found[name].item(), value.item()) for name, value in expected.items()}
    return {name: (a, b) for name, (a, b) in pairs.items() if abs(a - b) > absolute + 0.01 * abs(b)}


def errors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative errors by name, of floating-point tensors of both."""
    assert found.keys() == expected.keys()
    return {
        name: relative_error(found[name], tensor)
        for name, tensor in expected.items()
        if tensor.is_floating_point()
    }
