"""The transformer: what its blocks see, and which shapes are refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.dit import DiT, DiTConfig
from vqvdm.errors import UserError

TINY = DiTConfig(width=16, depth=2, head_width=8)


def stirred(**changes: Any) -> DiT:
    """As after some training: no weight is zero any more."""
    torch.manual_seed(0)
    net = DiT(replace(TINY, **changes), NetInputs(4, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def seen(net: DiT) -> Tensor:
    """Which positions (T, H, W) the output at (1, 2, 0) depends on."""
    z_BCTHW = torch.randn(1, 4, 3, 4, 4, requires_grad=True)
    one = torch.ones(1)
    net(z_BCTHW, one, one.long(), 8 * one)[0, :, 1, 2, 0].square().sum().backward()
    assert z_BCTHW.grad is not None
    return z_BCTHW.grad[0].abs().sum(0) > 0


def test_blocks_see_all_or_take_turns() -> None:
    frame, position = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    frame[1] = True
    position[:, 2, 0] = True
    assert seen(stirred(depth=1)).all()
    factorised = stirred(depth=1, attention="factorised")
    assert torch.equal(seen(factorised), frame)
    factorised.blocks[0].sees = "position"  # type: ignore[assignment]
    assert torch.equal(seen(factorised), position)
    turns = stirred(depth=3, attention="factorised").blocks
    assert [block.sees for block in turns] == ["frame", "position", "frame"]
    assert seen(stirred(attention="factorised")).all()


@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_the_frame_rate_reaches_attention(attention: str) -> None:
    """Also where the encoding of the frame rate says nothing."""
    net = stirred(attention=attention)
    torch.nn.init.zeros_(net.conditioning.fps[-1].weight)
    z_BCTHW, half, label = torch.randn(1, 4, 3, 4, 4), torch.tensor([0.5]), torch.tensor([1])
    slow, fast, same = (net(z_BCTHW, half, label, torch.tensor([fps])) for fps in (8.0, 16.0, 8.0))
    assert torch.equal(slow, same)
    assert not torch.allclose(slow, fast, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 12}, "multiple of 8"),
        ({"head_width": 7}, "heads of 7"),
        ({"head_width": 4}, "at least 6"),
        ({"head_width": 12}, "divides the width"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"patch": 0}, "patch must be at least 1"),
        ({"mlp_ratio": 0}, "mlp_ratio must be at least 1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        DiT(replace(TINY, **change), NetInputs(3, 2))


def test_latents_without_whole_patches_are_refused() -> None:
    config = replace(TINY, patch=2)
    config.check(4, 6)
    with pytest.raises(UserError, match="4x5 has no whole patches of 2"):
        config.check(4, 5)
