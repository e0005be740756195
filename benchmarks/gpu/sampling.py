"""The paper's comparison on one GPU: whole clips beside pixel-space diffusion.

Ours is the recipe `ucf101-small` at 16x128x128, by Euler's method, decoding included, in the user's
own way. The peer is `video-diffusion-pytorch` at 16x64x64, each of its 100 steps costing the same;
where it is not installed, the preset `vdm` stands in for it, our net of its widths. Both untrained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks.bundle import CLASSES, write_bundle
from benchmarks.gpu.profiling import kernels
from benchmarks.gpu.setup import Setup
from benchmarks.peers.pixel_diffusion import FRAMES, STEPS, PixelDiffusion
from benchmarks.sizes import latent_shape
from pipelines.recipes.presets import vdm
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.unet import UNet
from vqvdm.generator import VideoGenerator
from vqvdm.inference import ready

WAYS = ("eager", "graph", "compiled")
"""PyTorch as it is; its kernels replayed as one CUDA graph; compiled, and replayed."""


class Graphed:
    """A net whose kernels are recorded once, for one shape, and replayed."""

    def __init__(self, net: Callable[..., Tensor], *inputs: Tensor) -> None:
        self.inputs = [each.clone() for each in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(3):
                net(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph), torch.inference_mode():
            self.output = net(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for place, each in zip(self.inputs, inputs, strict=True):
            place.copy_(each)
        self.graph.replay()
        return self.output


def generator(setup: Setup, way: str, clips: int) -> VideoGenerator:
    """Ours, loaded as a user loads it."""
    with TemporaryDirectory(prefix="vqvdm-bench-") as folder:
        write_bundle(Path(folder), latent_shape(setup.preset), setup.preset)
        compiled = way == "compiled"
        made = VideoGenerator.load(folder, setup.device, setup.precision, compiled)
    if compiled and not setup.is_gpu:
        made.compile(setup.backend)
    elif way == "graph":
        z = torch.randn(clips, *latent_shape(setup.preset), device=setup.device)
        conditions = (
            torch.full((clips,), 0.5, device=setup.device),
            torch.zeros(clips, dtype=torch.long, device=setup.device),
            torch.full((clips,), 25.0, device=setup.device),
        )
        made.denoiser = Graphed(made.denoiser, z, *conditions)  # type: ignore[assignment]
    return made


def ours(setup: Setup, way: str, clips: int) -> None:
    """Seconds of whole clips, and memory."""
    made = generator(setup, way, clips)
    for steps in setup.steps:

        def sample(steps: int = steps) -> Any:
            return made.sample(CLASSES[:clips], 25.0, steps=steps, guidance=1.0, sampler="euler")

        setup.record.add(
            f"ours, {steps} steps, {clips} clips, {way}", setup.seconds(sample), "s",
            peak_mib=round(setup.peak_mib(sample)),
        )  # fmt: skip
    kernels(setup, f"ours, {steps} steps, {clips} clips, {way}", sample)
    setup.empty()


def peers(setup: Setup) -> dict[str, Callable[[], PixelDiffusion]]:
    """The peer in each arithmetic that it knows."""
    size = {"device": setup.device, "width": setup.peer_width, "size": setup.peer_size}
    if not setup.is_gpu:
        return {"fp32": lambda: PixelDiffusion.build(**size)}  # type: ignore[arg-type]
    bf16, fp32 = torch.bfloat16, torch.float32
    return {
        "bf16": lambda: PixelDiffusion.build(bf16, autocast=True, **size),  # type: ignore[arg-type]
        "autocast": lambda: PixelDiffusion.build(fp32, autocast=True, **size),  # type: ignore[arg-type]
    }


def theirs(setup: Setup, clips: int, compiled: bool = False) -> None:
    """Seconds of the peer's 100 steps in each arithmetic."""
    count = max(1, setup.peer_steps // (1 if clips == 1 else 4))
    way = "compiled" if compiled else "eager"
    for arithmetic, build in peers(setup).items():
        peer = build()
        if compiled:
            peer.compile(backend=setup.backend)

        def steps(peer: PixelDiffusion = peer) -> Any:
            return peer.steps(count, clips=clips)

        taken = [each * STEPS / count for each in setup.seconds(steps)]
        setup.record.add(
            f"theirs, {STEPS} steps, {clips} clips, {arithmetic}, {way}", taken, "s",
            peak_mib=round(setup.peak_mib(steps)), parameters=peer.parameters,
            peer="video-diffusion-pytorch", measured_steps=count,
        )  # fmt: skip
        setup.empty()


def stand_in(setup: Setup, clips: int) -> None:
    """Seconds of 100 evaluations of our own net of the peer's widths, where it is not installed."""
    config = vdm().train_ldm.model
    if not setup.is_gpu:
        config = replace(config, width=setup.peer_width, head_width=setup.peer_width)
    count = max(1, setup.peer_steps // (1 if clips == 1 else 4))
    net = ready(UNet(config, NetInputs(3, len(CLASSES))), setup.device, setup.dtype)
    size = setup.peer_size if setup.is_gpu else 32
    z_BCTHW = torch.randn(clips, 3, FRAMES if setup.is_gpu else 4, size, size, device=setup.device)
    time_B = torch.full((clips,), 0.5, device=setup.device)
    classes = torch.zeros(clips, dtype=torch.long, device=setup.device)

    fps_B = torch.full((clips,), 25.0, device=setup.device)

    @torch.inference_mode()
    def steps() -> None:
        for _ in range(count):
            net(z_BCTHW, time_B, classes, fps_B)

    taken = [each * STEPS / count for each in setup.seconds(steps)]
    setup.record.add(
        f"theirs, {STEPS} steps, {clips} clips, stand-in, eager", taken, "s",
        peak_mib=round(setup.peak_mib(steps)), peer="the preset vdm stands in",
        measured_steps=count,
    )  # fmt: skip
    setup.empty()


def compare(setup: Setup) -> None:
    """The ratios of the best of each side that is there."""
    record, arithmetics = setup.record, ("bf16", "autocast", "fp32", "stand-in")
    for clips in (1, setup.batch):
        slow = record.best(
            f"theirs at best, {clips} clips",
            [f"theirs, {STEPS} steps, {clips} clips, {arithmetic}, {way}"
             for arithmetic in arithmetics for way in WAYS],
        )  # fmt: skip
        for steps in setup.steps:
            fast = record.best(
                f"ours at best, {steps} steps, {clips} clips",
                [f"ours, {steps} steps, {clips} clips, {way}" for way in WAYS],
            )
            if fast is None:
                continue
            if clips == 1:
                record.add(f"a clip by {steps} steps", [fast], "s")
            if slow is not None:
                name = f"times faster, {steps} steps, {clips} clip{'s' * (clips > 1)}"
                record.add(name, [slow / fast], "times")
