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
    one, batch = setup.part, setup.batch
    peer = sampling.theirs if find_spec("video_diffusion_pytorch") else sampling.stand_in
    one("theirs, 1 clip", peer, 1)
    ways = sampling.WAYS if setup.is_gpu else ("eager", "compiled")
    for way in ways:
        one(f"ours, 1 clip, {way}", sampling.ours, way, 1)
        one("ratios", sampling.compare)
    training.both_stages(setup)
    one(f"theirs, {batch} clips", peer, batch)
    for way in ways:
        if setup.is_gpu or way == "eager":
            one(f"ours, {batch} clips, {way}", sampling.ours, way, batch)
            one("ratios", sampling.compare)
    for compiled in (False, True)[: 1 + setup.is_gpu]:
        words = "compiled" if compiled else "eager"
        one(f"encoder and decoder, {words}", training.encoding, batch, compiled)
    one("attention in training", layouts.attention, setup.preset.train_ldm.batch_size)
    for compiled in (False, True)[: 1 + setup.is_gpu]:
        for name in layouts.LAYOUTS:
            words = "compiled" if compiled else "eager"
            one(f"layout, {name}, {words}", layouts.layout, name, compiled)
    one("attention in sampling", layouts.attention, 1)
    if peer is sampling.theirs and setup.is_gpu:
        one("theirs, 1 clip, compiled", sampling.theirs, 1, True)
        one("ratios", sampling.compare)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file of the figures, JSON")
    parser.add_argument("--minutes", type=float, default=9.0, help="start no part after them")
    parser.add_argument("--rehearse", action="store_true", help="everything tiny, on the CPU")
    asked = parser.parse_args()
    if not asked.rehearse and not torch.cuda.is_available():
        print("error: PyTorch sees no GPU: pass --rehearse to go through all parts on the CPU")
        return 2
    device = torch.device("cpu") if asked.rehearse else torch.device("cuda", 0)
    prepare_device(device)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    record = Record(asked.out, device, asked.minutes, asked.rehearse)
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
