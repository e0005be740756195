"""Which attention and which memory layout is faster, at the sizes of `ucf101-small`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.gpu.setup import Setup
from benchmarks.gpu.training import clips, latents, stage_one, stage_two
from benchmarks.sizes import latent_shape
from vqvdm import transfer
from vqvdm.diffusion.attention import attend_fused, attend_short

LAYOUTS = {"channels last": torch.channels_last_3d, "contiguous": torch.contiguous_format}


def attend_plain(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor) -> Tensor:
    """Softmax attention by two products of matrices."""
    scores = (q_BHLD * q_BHLD.shape[-1] ** -0.5) @ k_BHLD.transpose(-2, -1)
    return scores.softmax(dim=-1) @ v_BHLD


def kinds(setup: Setup) -> dict[str, Callable[..., Tensor]]:
    """Kinds of attention by name."""
    found: dict[str, Callable[..., Tensor]] = {"fused": attend_fused, "plain": attend_plain}
    if setup.is_gpu:
        found["plain, compiled"] = torch.compile(attend_plain, dynamic=False)
        found["short, compiled"] = torch.compile(attend_short, dynamic=False)
    return found


def shapes(setup: Setup, batch: int) -> dict[str, tuple[int, int, int, int]]:
    """(B, H, L, D) of queries at each level, among positions and among frames."""
    config = setup.preset.train_ldm.model
    _, t, h, w = latent_shape(setup.preset)
    found = {}
    for level, multiplier in enumerate(config.multipliers):
        heads = max(1, config.width * multiplier // config.head_width)
        positions = (h >> level) * (w >> level)
        found[f"level {level}, {positions} positions"] = (batch * t, heads, positions)
        found[f"level {level}, {t} frames"] = (batch * positions, heads, t)
    width = config.head_width
    return {name: (b, heads, length, width) for name, (b, heads, length) in found.items()}


def there_and_back(attend: Callable[..., Tensor], inputs: list[Tensor], weight: Tensor) -> object:
    return torch.autograd.grad(attend(*inputs), inputs, weight)


def attention(setup: Setup, batch: int) -> None:
    """Milliseconds of each kind of attention, forwards and backwards."""
    for name, shape in shapes(setup, batch).items():
        inputs = [
            torch.randn(shape, device=setup.device, dtype=setup.dtype, requires_grad=True)
            for _ in range(3)
        ]
        weight = torch.randn(shape, device=setup.device, dtype=setup.dtype)
        for kind, attend in kinds(setup).items():
            work = partial(there_and_back, attend, inputs, weight)
            taken = [1e3 * each for each in setup.seconds(work, inner=10)]
            setup.record.add(f"attention, {name}, {batch} clips, {kind}", taken, "ms")


def layout(setup: Setup, name: str, compiled: bool) -> None:
    """Training steps and encoding with 3D convolutions in one memory layout."""
    way = f"{name}, {'compiled' if compiled else 'eager'}"
    with patch.object(transfer, "LAYOUT", LAYOUTS[name]):
        works = {
            "stage two": (stage_two, latents, setup.preset.train_ldm.batch_size, 1),
            "stage one": (stage_one, clips, setup.preset.train_vqgan.batch_size,
                          setup.preset.train_vqgan.steps - 1),
        }  # fmt: skip
        for stage, (make, feed, batch_size, step) in works.items():
            method = make(setup, setup.world(compiled))
            batch = feed(setup, batch_size).to(setup.device)
            method.train_step(batch, 0)
            work = partial(method.train_step, batch, step)
            taken = setup.seconds(work, setup.training_steps)
            speeds = [batch_size / each for each in taken]
            setup.record.add(f"{stage}, {way}", speeds, "clips/s", batch=batch_size)
            del method, work
            setup.empty()
