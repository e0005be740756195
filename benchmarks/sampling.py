"""How fast clips are sampled, beside pixel-space diffusion and a decoder of TATS's shape.

    python -m benchmarks.sampling [--repeats N] [--peer-steps N]

Both sides are untrained: time and memory do not depend on the weights. Ours samples 16x128x128 by
Euler's method, an evaluation a step, with a denoiser of no fewer parameters than the peer's, and
decodes; the peer samples 16x64x64. Of the peer's 100 steps a few are measured and multiplied: each
costs the same.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from benchmarks.bundle import CLASSES, DENOISER, LATENT, write_bundle
from benchmarks.peers import full_resolution
from benchmarks.peers.pixel_diffusion import STEPS, PixelDiffusion
from benchmarks.results import Row, record, row
from pipelines.cluster.cores import local_cpus
from vqvdm import VideoGenerator
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.unet import UNet
from vqvdm.inference import Precision, ready, resolve_precision

BATCH = 16
CPU = torch.device("cpu")
PEER = "video-diffusion-pytorch 0.7.0, Unet3D 64"
Clip = Callable[[], object]


def generator(precision: Precision = "auto", latent: tuple[int, ...] = LATENT) -> VideoGenerator:
    """Ours, loaded as a user loads it."""
    with TemporaryDirectory(prefix="vqvdm-bench-") as folder:
        write_bundle(Path(folder), latent)
        return VideoGenerator.load(folder, precision=precision)


def sample(made: VideoGenerator, steps: int, guidance: float = 1.0, count: int = 1) -> None:
    made.sample(CLASSES[:count], 25.0, steps=steps, guidance=guidance, sampler="euler")


def seconds(work: Clip) -> float:
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def in_turns(works: dict[str, Clip], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, measured in turns after one that does not count."""
    for work in works.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return taken


def against_pixels(repeats: int, peer_steps: int) -> list[Row]:
    """Rows of whole clips: decoding is in ours, the peer has nothing to decode."""
    fast = resolve_precision("auto", CPU)
    best, plain = generator(), generator("fp32")
    mixed = fast != torch.float32
    peer = PixelDiffusion.build(fast, autocast=mixed)
    peer_plain = PixelDiffusion.build()
    peer_guided = PixelDiffusion.build(fast, autocast=mixed, classes=True)
    parameters = sum(
        p.numel() for p in UNet(DENOISER, NetInputs(LATENT[0], len(CLASSES))).parameters()
    )
    assert parameters >= peer.parameters, (parameters, peer.parameters)
    taken = in_turns(
        {
            "100": partial(sample, best, 100),
            "100 fp32": partial(sample, plain, 100),
            "100 guided": partial(sample, best, 100, 2.0),
            "20": partial(sample, best, 20),
            "16 clips": partial(sample, best, 20, 1.0, BATCH),
            "peer": partial(peer.steps, peer_steps),
            "peer fp32": partial(peer_plain.steps, peer_steps),
            "peer guided": partial(peer_guided.steps, peer_steps, 2.0),
        },
        repeats,
    )
    scale = STEPS / peer_steps
    basis = (
        f"{parameters / 1e6:.1f} M parameters against {peer.parameters / 1e6:.1f} M; "
        f"{peer_steps} of the peer's {STEPS} steps measured and multiplied"
    )

    def against(name: str, ours: str, theirs: str, floor: float, dtype: torch.dtype) -> Row:
        slow = [scale * seconds for seconds in taken[theirs]]
        note = f"{seconds_of(taken[ours])} against {seconds_of(slow)}; {basis}; {arithmetic(dtype)}"
        return row(name, f"{PEER}, {STEPS} steps", pairs(slow, taken[ours]), floor, note)

    batched = pairs([BATCH * seconds for seconds in taken["20"]], taken["16 clips"])
    return [
        against("100 steps and decoding", "100", "peer", 60, fast),
        against("100 steps and decoding, fp32", "100 fp32", "peer fp32", 30, torch.float32),
        against("100 guided steps and decoding", "100 guided", "peer guided", 50, fast),
        against("20 steps and decoding", "20", "peer", 200, fast),
        row(f"clips a second, batch of {BATCH}", "one at a time", batched, 0, arithmetic(fast)),
    ]


def against_full_resolution(repeats: int) -> Row:
    """Our decoder beside TATS's, both made ready in the same way."""
    fast = resolve_precision("auto", CPU)
    ours = generator().vqgan
    theirs: nn.Module = ready(full_resolution.decoder(), CPU, fast)
    shape = (full_resolution.LATENT_CHANNELS, *LATENT[1:])
    z, wide = torch.randn(1, *LATENT), torch.randn(1, *shape, dtype=fast)
    with torch.inference_mode():
        taken = in_turns({"ours": lambda: ours.decode(z), "theirs": lambda: theirs(wide)}, repeats)
    note = f"{seconds_of(taken['ours'])} against {seconds_of(taken['theirs'])}; {arithmetic(fast)}"
    ratios = pairs(taken["theirs"], taken["ours"])
    return row("decoding a clip", "a TATS-shaped decoder", ratios, 8, note)


def added_memory(bundle: str | None) -> int:
    """Bytes that loading and sampling add to this process at its peak; of the peer without a
    bundle."""
    fast = resolve_precision("auto", CPU)
    before = peak_memory()
    if bundle:
        sample(VideoGenerator.load(bundle), 2, 2.0)
    else:
        PixelDiffusion.build(fast, autocast=fast != torch.float32, classes=True).steps(2, 2.0)
    return peak_memory() - before


def peak_memory() -> int:
    """Peak memory of this process in bytes; `getrusage` would include the parent's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def memory(repeats: int) -> Row:
    """How many times ours fits into what the peer takes, each in a process of its own."""

    def measured(*bundle: str) -> int:
        command = [sys.executable, "-m", "benchmarks.sampling", "--memory", *bundle]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        return int(done.stdout.split()[-1])

    with TemporaryDirectory(prefix="vqvdm-bench-") as folder:
        write_bundle(Path(folder))
        peaks = [(measured(), measured(folder)) for _ in range(repeats)]
    theirs, ours = (statistics.median(pair[side] for pair in peaks) for side in (0, 1))
    note = f"{ours / 2**20:.0f} against {theirs / 2**20:.0f} MiB, guided, with weights"
    return row("memory at the peak of sampling", PEER, peaks, 2, note)


def pairs(first: list[float], second: list[float]) -> list[tuple[float, float]]:
    return list(zip(first, second, strict=True))


def arithmetic(dtype: torch.dtype) -> str:
    return f"{str(dtype)[6:]}, {torch.get_num_threads()} threads"


def seconds_of(taken: list[float]) -> str:
    return f"{statistics.median(taken):.2f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-steps", type=int, default=1)
    parser.add_argument("--memory", nargs="?", const="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(local_cpus())
    if asked.memory is not None:
        print(added_memory(asked.memory))
        return 0
    rows = [memory(asked.repeats), against_full_resolution(asked.repeats)]
    return record(rows + against_pixels(asked.repeats, asked.peer_steps))


if __name__ == "__main__":
    sys.exit(main())
