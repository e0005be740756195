"""A minute of ratios that a change must not spoil; `.ci/run` ends with it.

    python -m benchmarks.guard

Floors lie at about half of what was measured, the first at four fifths, as less can be lost there:
a busy machine passes, and lost work fails.
One thread: two wait for each other at every operation, and for whatever else runs.
Nothing is recorded, and no published peer is needed: nets of their sizes stand in for them.
"""

from __future__ import annotations

import copy
import statistics
import sys
from collections.abc import Callable

import torch

from benchmarks.bundle import CLASSES, DENOISER, LATENT
from benchmarks.peers import full_resolution
from benchmarks.sampling import CPU, in_turns
from pipelines.recipes.presets import ucf101_small, vdm
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.unet import UNet
from vqvdm.inference import ready, resolve_precision
from vqvdm.tokenizer.vqgan import VQGAN

CLIP = (3, 16, 32, 32)
"""A quarter of what the preset is for, to take a minute and not four."""
Ratio = tuple[str, float, Callable[[], object], Callable[[], object], int]
"""What is compared, the floor, the fast side, the slow side, how often."""


def step(net: UNet, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], object]:
    """One evaluation of a denoiser for one clip."""
    z_BCTHW = torch.randn(1, *shape)
    conditions = torch.full((1,), 0.5), torch.zeros(1, dtype=torch.long), torch.full((1,), 25.0)

    def run() -> object:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return net(z_BCTHW, *conditions)

    return run


def ratios(dtype: torch.dtype) -> list[Ratio]:
    plain = UNet(DENOISER, NetInputs(LATENT[0], len(CLASSES))).eval().requires_grad_(False)
    fast = step(ready(copy.deepcopy(plain), CPU, dtype), LATENT, torch.float32)
    pixels = ready(UNet(vdm().train_ldm.model, NetInputs(CLIP[0], len(CLASSES))), CPU, dtype)
    ours = ready(VQGAN(ucf101_small().train_vqgan.model).decoder, CPU, dtype)
    theirs = ready(full_resolution.decoder(width=16), CPU, dtype)
    z, wide = torch.randn(1, *LATENT, dtype=dtype), torch.randn(1, 256, *LATENT[1:], dtype=dtype)
    return [
        ("a step of the denoiser made ready, against it as trained", 1.4, fast,
         step(plain, LATENT, dtype), 9),
        ("a step on latents, against one on pixels by the `vdm` preset", 5.0, fast,
         step(pixels, CLIP, torch.float32), 3),
        ("decoding, against a TATS-shaped decoder of half its width", 1.8, lambda: ours(z),
         lambda: theirs(wide), 5),
    ]  # fmt: skip


def main() -> int:
    torch.set_num_threads(1)
    fell = 0
    with torch.inference_mode():
        for name, floor, fast, slow, repeats in ratios(resolve_precision("auto", CPU)):
            taken = in_turns({"fast": fast, "slow": slow}, repeats)
            ratio = statistics.median(taken["slow"]) / statistics.median(taken["fast"])
            print(f"{name}: {ratio:.1f}, at least {floor} wanted", flush=True)
            fell |= ratio < floor
    return int(fell)


if __name__ == "__main__":
    sys.exit(main())
