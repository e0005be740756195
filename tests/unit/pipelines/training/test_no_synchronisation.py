"""A training step only enqueues work: nothing in it reads a number that a GPU computes."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.training.world import World
from tests.trainings import METHODS, batch
from vqvdm.tokenizer.quantize import Codebook

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense, aten.nonzero, aten.bincount, aten.masked_select, aten.equal,
    aten.is_nonzero, aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.lift_fresh,
    aten.repeat_interleave,
}  # fmt: skip
"""What waits for a GPU; `lift_fresh` is a tensor of the host's numbers."""


class Waiting(TorchDispatchMode):
    """Notes the calls that would wait, if their tensors were on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        packet = func.overloadpacket
        masks = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if packet in WAITING or masks:
            self.calls.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_reads_nothing(name: str, accumulate: int, dtype: torch.dtype) -> None:
    method = METHODS[name](World(dtype=dtype), accumulate)
    method.train_step(batch(), 0)  # the first one places codes, and may wait
    more = batch()
    with Waiting() as waiting:
        metrics = method.train_step(more, 1)
    assert waiting.calls == []
    assert metrics["loss"].isfinite()


def test_what_waits_is_noticed() -> None:
    codebook = Codebook(3, 8)
    with Waiting() as waiting:
        codebook(torch.randn(4, 3, 1, 2, 2))  # reads whether its codes are placed
        assert len(codebook.codes_KC[codebook.counts_K > 0])
        torch.tensor([1.0])
    assert {call.split(".")[1] for call in waiting.calls} == {
        "_local_scalar_dense", "index", "lift_fresh",
    }  # fmt: skip
