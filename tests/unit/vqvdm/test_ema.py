"""The averaged weights: what they follow, and how fast."""

import pytest
import torch
from torch import nn

from vqvdm.ema import EMA


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def move(net: nn.Module) -> None:
    """Stand in for a training step: every weight and buffer changes."""
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.add_(torch.ones_like(tensor))


def test_starts_equal_but_apart() -> None:
    net = model()
    ema = EMA(net, 0.99)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    move(net)
    for name, tensor in ema.average.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not ema.average.training
    assert not any(p.requires_grad for p in ema.average.parameters())
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    ("step", "decay"),
    [(0, 1 / 10), (1, 2 / 11), (90, 91 / 100), (879, 880 / 889), (1_000_000, 0.99)],
)
def test_one_update_against_the_formula(step: int, decay: float) -> None:
    net = model()
    ema = EMA(net, 0.99)
    old = [p.clone() for p in ema.average.parameters()]
    move(net)
    ema.update(net, step)
    for average, before, new in zip(ema.average.parameters(), old, net.parameters(), strict=True):
        torch.testing.assert_close(average, decay * before + (1 - decay) * new)


def test_frozen_weights_are_shared() -> None:
    net = model()
    net[0].weight.requires_grad_(False)
    ema = EMA(net, 0.5)
    assert ema.average[0].weight is net[0].weight
    assert ema.average[0].bias is not net[0].bias
    with torch.no_grad():
        net[0].bias += 1
    before = ema.average[0].bias.clone()
    ema.update(net, 1_000_000)
    torch.testing.assert_close(ema.average[0].bias, before + 0.5)
    assert net[0].bias.requires_grad and not ema.average[0].bias.requires_grad


def test_buffers_are_copied_not_averaged() -> None:
    net = model()
    ema = EMA(net, 0.99)
    net(torch.randn(16, 3))
    ema.update(net, 1_000_000)
    for average, new in zip(ema.average.buffers(), net.buffers(), strict=True):
        assert torch.equal(average, new)
        assert average.data_ptr() != new.data_ptr()


def test_the_start_is_soon_forgotten() -> None:
    net = model()
    ema = EMA(net, 0.9999)
    move(net)
    for step in range(100):
        ema.update(net, step)
    for average, new in zip(ema.average.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(average, new, atol=1e-5, rtol=0)


def test_the_model_is_left_alone() -> None:
    net = model()
    ema = EMA(net, 0.5)
    move(net)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    ema.update(net, 3)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_average_of_a_model_that_stays_comes_to_it() -> None:
    """A skipped step moves it too, and by as much."""
    net = model()
    ema = EMA(net, 0.5)
    move(net)
    first, last = ([p.clone() for p in each.parameters()] for each in (ema.average, net))
    for step in (10_000, 10_001):
        ema.update(net, step)
    for average, before, after in zip(ema.average.parameters(), first, last, strict=True):
        torch.testing.assert_close(average, 0.25 * before + 0.75 * after)
