"""A small run of the jobs up to a generator, and what came out: `python small_run.py ROOT`.

Weights, latents and samples depend on the processor's instructions: they are held down to AVX2,
and MKL to its reproducible code path. What still decides is told as the environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
}
SMALL_VQGAN = "--model.widths 8 16 --model.depths 1 1 --model.codebook-size 64"
SMALL_UNET = "--model.width 16 --model.head-width 8"
TRAINING = (
    "--steps 20 --batch-size 4 --num-workers 1 --precision fp32 --log-every 5 "
    "--validate-every 10 --checkpoint-every 10"
)
COMMANDS = (
    "demo_videos --count 20 --size 64 --duration-s 2",
    "shard_videos --videos-per-shard 8",
    f"train_vqgan {TRAINING} {SMALL_VQGAN} --loss.adversarial-start 0.5",
    "encode_latents --precision fp32 --num-workers 1",
    f"train_ldm {TRAINING} {SMALL_UNET}",
)
RESULTS = (
    "clips/*.tar",
    "vqgan/base/model.safetensors",
    "latents/base/*.tar",
    "ldm/base/model.safetensors",
    "ldm/base/vqgan/model.safetensors",
)
FINGERPRINTS = (
    ("clips/index.json", "spec_hash"),
    ("vqgan/base/config.json", "recipe"),
    ("latents/base/index.json", "spec_hash"),
    ("ldm/base/config.json", "recipe"),
)
"""By these a finished job is known again: roots made before would be refused if they changed."""


def run_jobs(root: Path) -> None:
    """Run every job in this process, on one Ray."""
    os.chdir(REPOSITORY)
    sys.path.insert(0, str(REPOSITORY))
    for command in COMMANDS:
        name, *flags = command.split()
        sys.argv = [f"jobs/{name}.py", "--root", str(root), *flags]
        try:
            runpy.run_path(f"jobs/{name}.py", run_name="__main__")
        except SystemExit as ended:
            assert ended.code == 0, command


def sampled(root: Path) -> str:
    """Checksum of four videos, in fp32 on any processor."""
    from vqvdm import VideoGenerator

    generator = VideoGenerator.load(root / "ldm/base", precision="fp32")
    videos = generator.sample(generator.classes[:4], fps=8, steps=4, guidance=2.0, seed=0)
    return hashlib.sha256(videos.tobytes()).hexdigest()


def environment() -> dict[str, Any]:
    """What the sums depend on besides the code."""
    import platform

    import av
    import numpy
    import torch

    return {
        "machine": platform.machine(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "av": av.__version__,
    }


def outcome(root: Path) -> dict[str, Any]:
    """Checksums of what the jobs published, and figures that hardly depend on the processor."""
    sums = {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in RESULTS
        for path in sorted(root.glob(pattern))
    }
    fingerprints = {
        f"{file} {name}": json.loads((root / file).read_text())[name] for file, name in FINGERPRINTS
    }
    latents = json.loads((root / "latents/base/index.json").read_text())
    figures = {
        f"latent {name} {i}": x for name in ("mean", "std") for i, x in enumerate(latents[name])
    }
    for stage in ("vqgan", "ldm"):
        figures |= json.loads((root / f"{stage}/base/config.json").read_text())["validation"]
    sums["samples"] = sampled(root)
    return {"sums": sums, "fingerprints": fingerprints, "figures": figures}


if __name__ == "__main__":
    place = Path(sys.argv[1]).absolute()
    # Read when PyTorch is imported, here and in Ray's workers.
    os.environ |= PORTABLE | {
        "RAY_ADDRESS": "local",
        "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db",
        "PYTHONPATH": str(REPOSITORY),
    }
    run_jobs(place)
    found = {"environment": environment(), **outcome(place)}
    (place / "outcome.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
