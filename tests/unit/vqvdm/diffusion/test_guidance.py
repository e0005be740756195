"""Guidance by its formula, and what its two predictions are conditioned on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vqvdm.diffusion.guidance import Conditions, guided, predict_with
from vqvdm.diffusion.known_latents import KnownLatents

NO_CLASS = 3
CLASSES, FPS = torch.tensor([0, 1, 2, 3]), torch.tensor([8.0, 16.0, 24.0, 12.5])
TEXT = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0], [5.0, 6.0]])
TIMES = torch.tensor([0.2, 0.5, 0.9, 0.5])
EVERYWHERE = (0.0, 1.0)


def latents(seed: int = 0) -> Tensor:
    return torch.randn(4, 2, 2, 3, 3, generator=torch.Generator().manual_seed(seed))


def frames() -> KnownLatents:
    """The first frame of each clip but the last."""
    mask = [[True, False]] * 3 + [[False, False]]
    return KnownLatents(latents(1), torch.tensor(mask))


class Net:
    """In place of a denoiser: what it predicts tells all of its inputs apart."""

    def __init__(self) -> None:
        self.inputs: list[tuple[Tensor, ...]] = []
        self.optional: list[dict[str, Tensor]] = []

    def __call__(self, *inputs: Tensor, **optional: Tensor) -> Tensor:
        self.inputs.append(inputs)
        self.optional.append(optional)
        z, *rest = inputs
        time, classes, fps = (x.view(-1, 1, 1, 1, 1) for x in rest[:3])
        found = z * time + fps * (classes + 1) ** 2
        if "text_BD" in optional:
            found = found + 10 * optional["text_BD"].sum(1).view(-1, 1, 1, 1, 1)
        if "is_known_BT" in optional:
            found = found - 7 * optional["is_known_BT"].sum(1).view(-1, 1, 1, 1, 1)
        return found

    def predict(self, z: Tensor, time_B: Tensor, conditions: Conditions) -> Tensor:
        return predict_with(self, z, time_B, conditions)


CASES: dict[str, Conditions] = {
    "classes": Conditions(CLASSES, FPS, NO_CLASS),
    "captions": Conditions(CLASSES, FPS, NO_CLASS, TEXT),
    "frames": Conditions(CLASSES, FPS, NO_CLASS, known=frames()),
    "all": Conditions(CLASSES, FPS, NO_CLASS, TEXT, frames()),
    "captions without classes": Conditions(torch.zeros(4, dtype=torch.long), FPS, 0, TEXT),
    "frames without classes": Conditions(torch.zeros(4, dtype=torch.long), FPS, 0, known=frames()),
}


@pytest.mark.parametrize("guidance", [0.0, 0.5, 2.0, 7.5])
@pytest.mark.parametrize("name", CASES)
def test_guidance_by_its_formula_in_one_batch(name: str, guidance: float) -> None:
    conditions, net = CASES[name], Net()
    conditional = net.predict(latents(), TIMES, conditions)
    unconditional = net.predict(latents(), TIMES, conditions.without())
    assert not torch.equal(conditional, unconditional)
    found = guided(net.predict, conditions, guidance)(latents(), TIMES)
    torch.testing.assert_close(found, unconditional + guidance * (conditional - unconditional))
    assert [len(inputs[0]) for inputs in net.inputs] == [4, 4, 8]


def test_times_are_guided_each_for_itself() -> None:
    conditions, net = CASES["all"], Net()
    found = guided(net.predict, conditions, 3.0, (0.3, 0.8))(latents(), TIMES)
    for guidance, clips in ((1.0, [0, 2]), (3.0, [1, 3])):
        expected = guided(net.predict, conditions, guidance)(latents(), TIMES)
        torch.testing.assert_close(found[clips], expected[clips])


@pytest.mark.parametrize(
    ("conditions", "guidance"),
    [
        (CASES["all"], 1.0),
        (Conditions(torch.zeros(4, dtype=torch.long), FPS, no_class=0), 2.0),
    ],
)
def test_where_there_is_no_guidance_one_prediction_is_made(
    conditions: Conditions, guidance: float
) -> None:
    net = Net()
    found = guided(net.predict, conditions, guidance)(latents(), TIMES)
    assert [len(inputs[0]) for inputs in net.inputs] == [4]
    assert torch.equal(found, net.predict(latents(), TIMES, conditions))


def test_the_unconditional_prediction_is_conditioned_on_the_frame_rate_alone() -> None:
    without = CASES["all"].without()
    assert without.class_B.tolist() == [NO_CLASS] * 4
    assert torch.equal(without.fps_B, FPS)
    assert without.text_BD is not None and not without.text_BD.any()
    assert without.known is not None and not without.known.is_known_BT.any()


def test_a_net_gets_the_conditions_that_there_are() -> None:
    net, interval_B = Net(), torch.full((4,), 0.25)
    predict_with(net, latents(), TIMES, CASES["classes"])
    predict_with(net, latents(), TIMES, CASES["all"], interval_B)
    plain, (z, *rest) = net.inputs
    assert all(map(torch.equal, plain, (latents(), TIMES, CLASSES, FPS)))
    assert all(map(torch.equal, rest, (TIMES, CLASSES, FPS, interval_B)))
    assert torch.equal(z, frames().put(latents()))
    expected: dict[str, Any] = {"is_known_BT": frames().is_known_BT, "text_BD": TEXT}
    assert net.optional[0] == {} and net.optional[1].keys() == expected.keys()
    assert all(torch.equal(net.optional[1][name], expected[name]) for name in expected)
