"""What `train_ldm` says of adapters before it trains, and refuses; the rates of clips of pixels."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.io.workspace import Workspace
from pipelines.sharding.manifest import Account, ManifestWriter, Source
from pipelines.train_ldm import _clips_of, check_adapters, pixel_index
from pipelines.training.initial import Initial
from pipelines.training.settings import TrainLDM
from tests.trainings import DENOISER, DIT, INDEX
from vqvdm.diffusion.denoiser import described
from vqvdm.diffusion.known_latents import ConditioningConfig
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


BASE = {**described(DENOISER), "objective": {"name": "flow"}}


@pytest.mark.parametrize(
    ("bundle", "words"),
    [
        (BASE | {"objective": {"name": "epsilon"}}, "objective.name epsilon → flow"),
        (BASE | described(replace(DENOISER, head_width=4)), "model.head_width 4 → 8"),
        (
            BASE | described(replace(DENOISER, temporal_positions="seconds")),
            "model.temporal_positions seconds → frames",
        ),
        (BASE | described(DIT), "denoiser dit → unet"),
        (BASE | {"conditioning": {"share": 0.5}}, "conditioning.share 0.5 → 0.0"),
    ],
)
def test_adapters_of_another_net_than_that_of_the_weights_are_refused(
    bundle: dict[str, Any], words: str
) -> None:
    assert DENOISER.head_width == 8
    with pytest.raises(UserError, match=rf"asks? for another \({re.escape(words)}\): pass those"):
        check_adapters(ADAPTERS, INDEX, replace(INITIAL, bundle=bundle))


def test_adapters_may_begin_to_know_frames() -> None:
    check_adapters(ADAPTERS, INDEX, replace(INITIAL, bundle=BASE))
    knowing = replace(ADAPTERS, conditioning=ConditioningConfig(0.5))
    check_adapters(knowing, INDEX, replace(INITIAL, bundle=BASE))
    both = BASE | {"conditioning": {"share": 0.1}}
    check_adapters(knowing, INDEX, replace(INITIAL, bundle=both))
    dit = {**described(DIT), "objective": {"name": "flow"}}
    check_adapters(replace(ADAPTERS, denoiser="dit"), INDEX, replace(INITIAL, bundle=dit))


def test_a_rank_that_is_too_high_is_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match=r"--lora\.rank 8: adapters of the net's width, 8"):
        check_adapters(replace(ADAPTERS, lora=LoRAConfig(8)), INDEX, INITIAL)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([None], {25.0: 7, 29.97: 1}),
        ([8.0, 16.0], {8.0: 8, 16.0: 8}),
        ([None, 8.0], {25.0: 7, 29.97: 1, 8.0: 8}),
    ],
)
def test_rates_are_those_of_videos_that_gave_clips(
    rates: list[float | None], expected: dict[float, int], tmp_path: Path
) -> None:
    space = Workspace(f"{tmp_path}/root")
    accounts = [
        (Source(f"{number}.mp4", f"/{number}.mp4", 1, None, 1, "a", "train"), account)
        for number, account in enumerate(
            [
                Account("ok", None, 3, fps=25.0),
                Account("ok", None, 4, fps=25.0),
                Account("ok", None, 1, fps=29.97),
                Account("rejected", "too_short", 0, fps=60.0),
            ]
        )
    ]
    manifest = ManifestWriter(tmp_path)
    manifest.add("train-000000", accounts)
    manifest.publish(space.manifest)
    found = _clips_of(space, {"rates": rates})
    assert found == expected
    clips = {"spec": {"frames": 4, "size": 16}, "classes": ["a"]}
    assert pixel_index(clips, found)["fps"] == sorted(expected)
