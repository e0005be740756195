"""The parts, in the order of their worth: the time may end before the last one."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.gpu import layouts, sampling, training
from benchmarks.gpu.record import Record
from benchmarks.gpu.setup import Setup, full, tiny
from vqvdm.inference import prepare_device


def measure(setup: Setup) -> None:
    """What needs no compiling comes first: that takes a minute for each net and size."""
    installed = find_spec("video_diffusion_pytorch") is not None
    peer = sampling.theirs if installed else sampling.stand_in
    for clips in (1, setup.batch):
        setup.part(f"theirs, {clips} clips", peer, clips)
        for way in ("eager", "graph")[: 1 + setup.is_gpu]:
            setup.part(f"ours, {clips} clips, {way}", sampling.ours, way, clips)
            setup.part("ratios", sampling.compare)
        if clips == 1:
            training.both_stages(setup, False)
    setup.part("encoder and decoder, eager", training.encoding, setup.batch, False)

    setup.part("ours, 1 clips, compiled", sampling.ours, "compiled", 1)
    setup.part("ratios", sampling.compare)
    if setup.is_gpu:
        training.both_stages(setup, True)
        setup.part("encoder and decoder, compiled", training.encoding, setup.batch, True)
        setup.part("ours, 16 clips, compiled", sampling.ours, "compiled", setup.batch)
        setup.part("ratios", sampling.compare)

    for name in layouts.LAYOUTS:
        setup.part(f"layout, {name}, eager", layouts.layout, name, False)
    for clips in (setup.preset.train_ldm.batch_size, 1):
        setup.part(f"attention, {clips} clips", layouts.attention, clips)
    if setup.is_gpu:
        for name in layouts.LAYOUTS:
            setup.part(f"layout, {name}, compiled", layouts.layout, name, True)
        if installed:
            setup.part("theirs, 1 clips, compiled", sampling.theirs, 1, True)
            setup.part("ratios", sampling.compare)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file of the figures, JSON")
    parser.add_argument("--minutes", type=float, default=9.0, help="start no part after them")
    parser.add_argument("--only", default="", help="parts whose name this pattern is found in")
    parser.add_argument("--rehearse", action="store_true", help="everything tiny, on the CPU")
    asked = parser.parse_args()
    if not asked.rehearse and not torch.cuda.is_available():
        print("error: PyTorch sees no GPU: pass --rehearse to go through all parts on the CPU")
        return 2
    device = torch.device("cpu") if asked.rehearse else torch.device("cuda", 0)
    prepare_device(device)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    record = Record(asked.out, device, asked.minutes, asked.rehearse, asked.only)
    measure((tiny if asked.rehearse else full)(record, device))
    for floor in record.data["floors"]:
        words = "met" if floor["met"] else "missed"
        bound = "at most" if floor["at_most"] else "at least"
        print(f"{floor['figure']}: {floor['measured']:.4g}, {bound} {floor['value']:g}: {words}")
    for kind in ("errors", "skipped"):
        print(f"{kind}: {record.data[kind]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
