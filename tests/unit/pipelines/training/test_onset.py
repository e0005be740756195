"""The discriminators join compiled nets, in every arithmetic, before and after a restart."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.recipes.presets import PRESETS
from pipelines.training.loader import Batch
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.settings import PIXEL_SPACE, TrainVQGAN
from pipelines.training.world import World
from vqvdm.checkpoint import load_state, save_state
from vqvdm.tokenizer.inflated import InflatedConfig

STEPS, ONSET, RESTART = 6, 3, 4
FRAMES = 8
"""As few as the deepest discriminators take."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOKENIZERS = {
    PRESETS[name]().train_vqgan.model: name
    for name in reversed(PRESETS)
    if PRESETS[name]().train_ldm.vqgan != PIXEL_SPACE
}
"""Presets whose tokenizers differ."""
CASES = [
    (preset, parts, dtype) for preset in TOKENIZERS.values() for parts in (1, 2) for dtype in DTYPES
]

pytestmark = pytest.mark.filterwarnings("ignore:TF32")  # said when oneDNN is switched on again


def case(values: tuple[str, int, str]) -> Any:
    """What is the default on a GPU for every tokenizer, and all of the smallest one; the rest is
    slow."""
    preset, parts, dtype = values
    often = preset == "demo" or (parts, dtype) == (1, "bf16")
    marks = () if often else pytest.mark.slow
    return pytest.param(preset, parts, DTYPES[dtype], marks=marks, id=f"{preset}-{parts}-{dtype}")


@pytest.fixture(autouse=True)
def arithmetic() -> Iterator[None]:
    """No oneDNN: it sometimes computes weight gradients of 3D convolutions in bf16 that are not
    finite."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def recipe(preset: str, accumulate: int, **loss: float) -> TrainVQGAN:
    """A preset with its own blocks, depths and losses, an eighth of its channels, few steps."""
    config = PRESETS[preset]().train_vqgan
    net = config.model

    def thin(widths: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return widths and tuple(width // 8 for width in widths)

    model = replace(
        net,
        widths=thin(net.widths) or (),
        decoder_widths=thin(net.decoder_widths),
        codebook_size=32,
    )
    weights = replace(config.loss, adversarial_start=(ONSET - 1) / STEPS, **loss)
    critic = replace(config.discriminator, width=8)
    return replace(
        config,
        steps=STEPS,
        warmup=1,
        accumulate=accumulate,
        model=model,
        loss=weights,
        discriminator=critic,
    )


def clips(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    video = torch.randint(0, 256, (2, FRAMES, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return Batch(["a", "b"], {"video": video})


def run(method: VQGANMethod, steps: range) -> list[dict[str, float]]:
    return [method.world.mean(method.train_step(clips(step), step)) for step in steps]


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        return [each for item in value.values() for each in tensors(item)]
    return [value] if isinstance(value, Tensor) else []


def through_onset(config: TrainVQGAN, world: World, folder: Path) -> list[dict[str, float]]:
    """The metrics of a training that is killed and resumed after the onset."""
    method = VQGANMethod(config, world)
    curve = run(method, range(RESTART))
    save_state(folder / "state", method.state())
    resumed = VQGANMethod(config, world)
    resumed.load(load_state(folder / "state"))
    curve += run(resumed, range(RESTART, STEPS))
    curve_left = run(method, range(RESTART, STEPS))
    assert curve_left == curve[RESTART:]
    assert all(map(torch.equal, tensors(method.state()), tensors(resumed.state())))
    assert all(value.isfinite().all() for value in tensors(resumed.state()))
    return curve


def check_onset(config: TrainVQGAN, dtype: torch.dtype, folder: Path) -> None:
    """Compiled, a training takes the steps that it takes otherwise, also after the onset."""
    # Traced and differentiated as on a GPU; only the generated code is left out, for time.
    compiled = World(dtype=dtype, compiled=True, backend="aot_eager")
    curve = through_onset(config, compiled, folder)
    assert ["adversarial" in metrics for metrics in curve] == [k >= ONSET for k in range(STEPS)]
    plain = run(VQGANMethod(config, World(dtype=dtype)), range(STEPS))
    for found, wanted in zip(curve, plain, strict=True):
        for name in ("loss", "adversarial", "discriminator"):
            assert found.get(name, 0) == pytest.approx(wanted.get(name, 0), rel=0.02)


@pytest.mark.long
@pytest.mark.parametrize(("preset", "accumulate", "dtype"), [*map(case, CASES)])
def test_compiled_nets_go_through_the_onset(
    preset: str, accumulate: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    check_onset(recipe(preset, accumulate), dtype, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    ("accumulate", "dtype"),
    [(1, torch.float32), pytest.param(2, torch.bfloat16, marks=pytest.mark.slow)],
)
def test_a_tokenizer_out_of_an_image_autoencoder_goes_through_the_onset(
    accumulate: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    shape = InflatedConfig((8, 16), 1, 3, 4)
    check_onset(recipe("demo", accumulate).inflating(shape), dtype, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_generated_code_goes_through_the_onset(dtype: torch.dtype, tmp_path: Path) -> None:
    through_onset(recipe("demo", 1), World(dtype=dtype, compiled=True), tmp_path)
