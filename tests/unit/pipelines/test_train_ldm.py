"""What `train_ldm` says of adapters before it trains, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.train_ldm import check_adapters
from pipelines.training.initial import Initial
from pipelines.training.settings import TrainLDM
from tests.trainings import DENOISER, DIT, INDEX
from vqvdm.diffusion.lora import LoRAConfig
from vqvdm.errors import UserError

INITIAL = Initial("/root/ldm/base/model.safetensors", "0123")
ADAPTERS = TrainLDM(model=DENOISER, dit=DIT, lora=LoRAConfig(4))


def test_adapters_are_told_of_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    check_adapters(replace(ADAPTERS, lora=LoRAConfig()), INDEX, None)
    assert capsys.readouterr().out == ""
    for config in (ADAPTERS, replace(ADAPTERS, denoiser="dit")):
        check_adapters(config, INDEX, INITIAL)
        words = capsys.readouterr().out
        assert words.startswith("LoRA of rank 4: ") and "parameters are trained" in words


def test_adapters_need_a_net_to_adapt() -> None:
    with pytest.raises(UserError, match=r"--lora\.rank 4 adapts a trained net: pass --init-from"):
        check_adapters(ADAPTERS, INDEX, None)


def test_a_rank_that_is_too_high_is_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match=r"--lora\.rank 8: adapters of the net's width, 8"):
        check_adapters(replace(ADAPTERS, lora=LoRAConfig(8)), INDEX, INITIAL)
