"""Steps whose gradient is not finite are skipped, counted, and in the end refused."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.training.loader import Batch
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.optimise import (
    MOST_SKIPPED,
    SMALLEST_SCALE,
    Optimiser,
    refuse_standstill,
    step_together,
)
from pipelines.training.settings import TrainLDM, TrainVQGAN
from pipelines.training.world import World
from vqvdm.diffusion.unet import UNetConfig
from vqvdm.errors import UserError
from vqvdm.tokenizer.discriminator import DiscriminatorConfig
from vqvdm.tokenizer.losses import LossConfig
from vqvdm.tokenizer.vqgan import VQGANConfig

DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)
INDEX = {
    "shape": [3, 2, 4, 4], "classes": ["a", "b"], "fps": [8.0], "mean": [0.0] * 3, "std": [1.0] * 3,
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:TF32")  # said when oneDNN is switched on again


@pytest.fixture(autouse=True)
def without_onednn() -> Iterator[None]:
    """It sometimes computes weight gradients of 3D convolutions in bf16 that are not finite."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def single(dtype: torch.dtype, clip: float = 1.0) -> tuple[nn.Parameter, Optimiser]:
    weight = nn.Parameter(torch.ones(2))
    adamw = torch.optim.AdamW([weight], fused=True)
    return weight, Optimiser(adamw, World(dtype=dtype), clip)


def test_a_clip_of_0_clips_nothing_and_skips_what_is_not_finite() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimiser = Optimiser(torch.optim.SGD([weight]), World(), clip=0.0)
    optimiser.backward((weight * torch.tensor([30.0, -40.0])).sum())
    assert step_together((optimiser, 0.1))
    assert weight.tolist() == pytest.approx([-3.0, 4.0])
    assert optimiser.metrics()["gradient_norm"] == 50
    optimiser.backward((weight * torch.tensor([1.0, math.inf])).sum())
    assert not step_together((optimiser, 0.1))
    assert weight.tolist() == pytest.approx([-3.0, 4.0])
    assert optimiser.metrics()["skipped_steps"] == 1


@DTYPES
def test_a_step_against_adamw_with_clipped_gradients(dtype: torch.dtype) -> None:
    weight, optimiser = single(dtype)
    plain = nn.Parameter(torch.ones(2))
    adamw = torch.optim.AdamW([plain], lr=0.1)
    for gradient in (torch.tensor([3.0, -4.0]), torch.tensor([0.1, 0.2])):
        optimiser.backward((weight * gradient).sum())
        assert step_together((optimiser, 0.1))
        assert optimiser.metrics()["gradient_norm"] == gradient.norm()
        plain.grad = gradient / gradient.norm().clamp(min=1.0)
        adamw.step()
        torch.testing.assert_close(weight, plain)
    assert optimiser.metrics()["skipped_steps"] == 0


@DTYPES
@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan, 1e30])  # squared, it overflows
def test_one_gradient_that_is_not_finite_holds_all_weights(
    dtype: torch.dtype, wrong: float
) -> None:
    pairs = [single(dtype), single(dtype)]
    for skipped, factor in ((0, 1.0), (1, wrong), (1, 1.0)):
        before = [weight.clone() for weight, _ in pairs]
        moments = copy.deepcopy([optimiser.optimizer.state_dict() for _, optimiser in pairs])
        scale = pairs[0][1].scale
        pairs[0][1].backward(pairs[0][0][0] * factor)
        pairs[1][1].backward(pairs[1][0].sum())
        took = step_together(*[(optimiser, 0.1) for _, optimiser in pairs])
        assert took == (factor == 1.0)
        for (weight, optimiser), old, moment in zip(pairs, before, moments, strict=True):
            assert torch.equal(weight, old) == (not took)
            assert weight.isfinite().all()
            assert weight.grad is None
            metrics = optimiser.metrics()
            assert metrics["skipped_steps"] == skipped
            assert metrics["skipped_in_a_row"] == (not took)
            assert (metrics["gradient_norm"] == 0) == (not took)
            if not took:
                new = optimiser.optimizer.state_dict()["state"][0]
                assert all(torch.equal(new[name], moment["state"][0][name]) for name in new)
                lower = 0.5 if dtype == torch.float16 else 1.0
                assert optimiser.scale == lower * scale
    again = single(dtype)[1]
    again.load(pairs[0][1].state())
    assert again.scale == pairs[0][1].scale
    assert again.metrics()["skipped_steps"] == 1


def found(in_a_row: int, **more: float) -> dict[str, Tensor]:
    values = {"skipped_in_a_row": in_a_row, **more}
    return {name: torch.tensor(value) for name, value in values.items()}


def test_many_skipped_steps_in_a_row_are_refused_with_the_checkpoint_to_go_on_from() -> None:
    refuse_standstill(found(MOST_SKIPPED - 1), 700, 1000, lambda: 600)
    with pytest.raises(UserError, match=r"50 steps.*step 700.*checkpoint of step 600.*--lr") as why:
        refuse_standstill(found(MOST_SKIPPED), 700, 1000, lambda: 600)
    assert "--overwrite" not in str(why.value)
    assert "\n" not in str(why.value)


def test_fp16_that_overflows_at_any_scale_is_refused_with_another_precision() -> None:
    refuse_standstill(found(20, loss_scale=SMALLEST_SCALE), 30, 1000, lambda: None)
    for saved, named in ((None, False), (600, True)):
        with pytest.raises(UserError, match="--precision bf16") as why:
            refuse_standstill(
                found(20, loss_scale=SMALLEST_SCALE / 2), 700, 1000, lambda s=saved: s
            )
        assert ("--name" in str(why.value)) == named
    weight, optimiser = single(torch.float16)
    with pytest.raises(UserError, match="fp16"):
        for step in range(MOST_SKIPPED):
            optimiser.backward(weight.sum() * math.inf)
            step_together((optimiser, 0.1))
            refuse_standstill(optimiser.metrics(), step, 1000, lambda: None)


def vqgan(dtype: torch.dtype) -> VQGANMethod:
    config = TrainVQGAN(
        steps=10,
        warmup=1,
        model=VQGANConfig(((2, 4, 4),), (8,), (1,), codebook_size=16),
        discriminator=DiscriminatorConfig(width=8, levels=2),
        loss=LossConfig(adversarial_start=0.0, adversarial_ramp=0.0),
    )
    return VQGANMethod(config, World(dtype=dtype))


def ldm(dtype: torch.dtype) -> LDMMethod:
    unet = UNetConfig(width=8, multipliers=(1, 2), depths=(1, 1), head_width=8)
    return LDMMethod(TrainLDM(steps=10, warmup=1, model=unet), World(dtype=dtype), INDEX)


def batch(step: int) -> Batch:
    g = torch.Generator().manual_seed(step)
    tensors = {
        "video": torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8, generator=g),
        "latent": torch.randn(2, 3, 2, 4, 4, generator=g),
        "class_index": torch.tensor([0, 1]),
        "fps": torch.tensor([8.0, 8.0]),
    }
    return Batch(["a", "b"], tensors)


def hook(parameter: Tensor) -> Callable[[], None]:
    """Make the gradient of a parameter infinite; returns what ends that."""
    return parameter.register_hook(lambda gradient: gradient + math.inf).remove


def break_tokenizer(method: VQGANMethod) -> Callable[[], None]:
    return hook(next(method.vqgan.encoder.parameters()))


def break_critic(method: VQGANMethod) -> Callable[[], None]:
    return hook(next(method.critic.nets.parameters()))


def break_balance(method: VQGANMethod) -> Callable[[], None]:
    sound = method.critic.adversarial_loss
    method.critic.adversarial_loss = lambda pair: math.inf * sound(pair)  # type: ignore[method-assign]
    return lambda: setattr(method.critic, "adversarial_loss", sound)


def break_denoiser(method: LDMMethod) -> Callable[[], None]:
    return hook(next(method.denoiser.first.parameters()))


def leaves(value: Any, path: str = "") -> dict[str, Tensor]:
    if isinstance(value, Mapping):
        return {
            k: v for key, item in value.items() for k, v in leaves(item, f"{path}/{key}").items()
        }
    return {path: value.clone()} if isinstance(value, Tensor) else {}


def learned(method: Any) -> dict[str, Tensor]:
    """All that is learned: not the counters."""
    return {
        path: value for path, value in leaves(method.state()).items() if "/skipped/" not in path
    }


@DTYPES
@pytest.mark.long
@pytest.mark.parametrize(
    ("make", "break_it"),
    [
        (vqgan, break_tokenizer), (vqgan, break_critic), (vqgan, break_balance),
        (ldm, break_denoiser),
    ],
    ids=["tokenizer", "critic", "balance", "denoiser"],
)  # fmt: skip
def test_a_step_with_an_infinite_gradient_changes_nothing(
    make: Callable[[torch.dtype], Any], break_it: Callable[[Any], Callable[[], None]],
    dtype: torch.dtype,
) -> None:  # fmt: skip
    method = make(dtype)
    for step in range(3):
        assert method.train_step(batch(step), step)["skipped_steps"] == 0
    mend, before = break_it(method), learned(method)
    metrics = method.train_step(batch(3), 3)
    mend()
    after = learned(method)
    moved = [path for path in before if not torch.equal(before[path], after[path])]
    assert [path for path in moved if not path.startswith("/ema/")] == []
    net = "/vqgan/" if make is vqgan else "/denoiser/"
    for path in moved:  # the average comes closer to weights that stayed
        old, new = (state[path] - after[path.replace("/ema/", net)] for state in (before, after))
        assert (new.abs() <= old.abs()).all()
    assert metrics["skipped_steps"] == metrics["skipped_in_a_row"] == 1
    if dtype == torch.float16:
        assert metrics["loss_scale"] == 2.0**15

    metrics = method.train_step(batch(4), 4)
    assert (metrics["skipped_steps"], metrics["skipped_in_a_row"]) == (1, 0)
    again = learned(method)
    kinds = {path.split("/")[1] for path in again if not torch.equal(again[path], before[path])}
    assert kinds == {path.split("/")[1] for path in again}  # all of them go on
    assert all(value.isfinite().all() for value in again.values())
