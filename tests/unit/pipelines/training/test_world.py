"""Random draws that do not depend on the number of workers, and means over workers."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.fx import GraphModule

from pipelines.training.world import Draws, World
from vqvdm.tokenizer.vqgan import VQGAN, VQGANConfig


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("name", ["normal", "uniform"])
def test_workers_and_parts_draw_what_one_worker_draws(name: str, workers: int, parts: int) -> None:
    alone = Draws(World(), seed=3, step=7)
    shares = [
        Draws(World(rank, workers), 3, 7, part, parts)
        for rank in range(workers)
        for part in range(parts)
    ]
    seen = []
    for shape in ((3, 5), (), (4,)):  # one after another
        whole = getattr(alone, name)(16, *shape)
        rows = 16 // len(shares)
        assert whole.shape == (16, *shape)
        found = torch.cat([getattr(draws, name)(rows, *shape) for draws in shares])
        assert torch.equal(found, whole)
        seen += whole.flatten().tolist()
    assert len(set(seen)) == len(seen)  # neither among samples nor among draws


def test_draws_are_a_function_of_seed_and_step() -> None:
    def draw(seed: int, step: int) -> Tensor:
        return Draws(World(), seed, step).normal(8)

    assert torch.equal(draw(1, 2), draw(1, 2))
    assert len({tuple(draw(*pair).tolist()) for pair in [(0, 1), (1, 0), (1, 1), (0, 0)]}) == 4


def test_draws_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Draws(World(), 5, 5).uniform(4)
    assert torch.equal(torch.rand(3), expected)


def test_uniform_numbers_lie_in_the_unit_interval() -> None:
    values = Draws(World(), 0, 0).uniform(10_000)
    assert 0 <= values.min() < 0.01
    assert 0.99 < values.max() < 1


def test_one_worker_keeps_its_metrics() -> None:
    parameter = nn.Parameter(torch.tensor([2.0]))
    assert World().mean({"loss": parameter.sum(), "weight": torch.tensor(3)}) == {
        "loss": 2.0,
        "weight": 3.0,
    }


def test_metrics_are_averaged_over_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_the_other_worker(values: Tensor) -> None:
        values += torch.tensor([4.0, 10.0])

    monkeypatch.setattr(dist, "all_reduce", add_the_other_worker)
    own = {"loss": torch.tensor(2.0), "norm": torch.tensor(0.0)}
    assert World(rank=1, size=2).mean(own) == {"loss": 3.0, "norm": 5.0}


def test_the_first_worker_is_one() -> None:
    assert [World(rank, 3).is_first for rank in range(3)] == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_follows_the_dtype(dtype: torch.dtype) -> None:
    with World(dtype=dtype).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_single_worker_wraps_nothing_and_waits_for_nobody() -> None:
    module = nn.Linear(1, 1)
    assert World().wrap(module) is module
    World().barrier()


@pytest.mark.long
def test_a_net_is_compiled_as_one_piece_for_each_shape() -> None:
    shapes = []

    def note(graph: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        shapes.append(inputs[-1].shape)
        return graph.forward

    net = VQGAN(VQGANConfig(widths=(8, 16), depths=(1, 1)))
    world = World(compiled=True, backend=note)
    to_last = net.decoder[:-1]
    world.compile(net.encoder, to_last)
    for clips in (1, 2, 1, 3):
        z_BCTHW = net.encode(torch.zeros(clips, 3, 4, 8, 8))
        assert torch.equal(net.last_layer(to_last(z_BCTHW)), net.decoder(z_BCTHW))
    assert len(shapes) == 2 * 3


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def test_nets_of_one_class_are_compiled_for_as_many_shapes_each() -> None:
    """A teacher, its student and its average would share eight, and then run as they are."""
    compiled: list[int] = []

    def count(graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        compiled.append(1)
        return graph.forward

    torch._dynamo.reset()
    nets = [Scaled(1.0), Scaled(2.0)]
    World(compiled=True, backend=count).compile(*nets)
    for rows in range(2, 7):
        for net in nets:
            net(torch.ones(rows, 4))
    torch._dynamo.reset()
    assert len(compiled) == 10
