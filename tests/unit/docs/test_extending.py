"""The code of docs/extending.md runs as it stands there, with what it is added to."""

import importlib.util
import math
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.sharding import sources
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.world import World
from tests.input_folders import found
from tests.odd_videos import write
from tests.tiny import write_bundle
from tests.trainings import batch, vqgan
from tests.video_tars import cut
from vqvdm import VideoGenerator
from vqvdm.diffusion.objectives import Denoised
from vqvdm.diffusion.samplers import SAMPLERS, Point, even_points
from vqvdm.metrics import frechet_distance
from vqvdm.metrics.detectors import load_detector

PAGE = (Path(__file__).parents[3] / "docs/extending.md").read_text()


def example(title: str, folder: Path) -> ModuleType:
    """The code below a title, as a module of its own."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    [code] = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    file = folder / "example.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location("example", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
def test_the_quantiser_trains(tmp_path: Path) -> None:
    quantizer = example("A quantiser", tmp_path).LookupFree(3)
    z_BCTHW = torch.tensor([-0.9, 0.2, 0.7]).view(1, 3, 1, 1, 1)
    quantized = quantizer(z_BCTHW)
    assert quantized.z_BCTHW.flatten().tolist() == [-1, 1, 1]
    assert quantized.indices_BTHW.item() == 0b110
    torch.manual_seed(0)
    method: VQGANMethod = vqgan(World(), "fsq", 16, accumulate=1)
    method.vqgan.quantizer, method.ema.average.quantizer = quantizer, quantizer
    losses = [method.train_step(batch(), step)["reconstruction"].item() for step in range(20)]
    assert losses[-1] < losses[0]
    assert method.validate([batch()])["codebook/usage"] > 1 / 8


def squared_slope(z_BCTHW: Tensor, point: Point) -> Denoised:
    """Data and noise between which a flow has the slope z², so that z(t) is 1 / (2 - t)."""
    return Denoised(torch.zeros_like(z_BCTHW), z_BCTHW**2)


def test_the_sampler_is_of_second_order_and_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    midpoint = example("A sampler", tmp_path).midpoint
    start = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)

    def error(steps: int) -> float:
        z = midpoint(squared_slope, start, even_points("flow", steps), lambda: start)
        return abs(z.item() - 1 / 2)

    assert math.log2(error(64) / error(128)) == pytest.approx(2, abs=0.25)
    monkeypatch.setitem(SAMPLERS["flow"], "midpoint", midpoint)
    generator = VideoGenerator.load(write_bundle(tmp_path / "bundle"))
    videos = generator.sample(["zero"], fps=8, steps=2, sampler="midpoint")
    assert videos.shape == (1, 16, 32, 32, 3) and len(np.unique(videos)) > 10


def test_the_detector_tells_videos_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example("A detector", tmp_path)
    detector = load_detector("colour_and_motion.pt", "colour_and_motion")
    videos = np.random.default_rng(0).integers(0, 256, (40, 8, 16, 16, 3), np.uint8)
    features_ND = detector.features(videos)
    assert features_ND.shape == (40, 8)
    assert detector.probabilities(videos).shape == (40, 8)
    dark = detector.features(videos // 2)
    assert frechet_distance(features_ND, dark) > 10 * frechet_distance(features_ND, features_ND)


def test_the_kind_of_input_gives_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zips = example("An input layout", tmp_path)
    monkeypatch.setattr(sources, "KINDS", (zips, *sources.KINDS))
    video = write(tmp_path / "a.mp4", "libx264", count=20).read_bytes()
    contents = {"cat/1.mp4": video, "dog/2.mp4": video, "dog/notes.txt": b"x"}
    folder = tmp_path / "folder"
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    packed, plain = found(str(tmp_path / "videos.zip")), found(str(folder))
    assert [(s.id, s.label) for s in packed.values()] == [(s.id, s.label) for s in plain.values()]
    accounts, clips = cut(list(packed.values()), tmp_path / "clips")
    assert {account.status for account in accounts.values()} == {"ok"} and len(clips) == 10
    beyond = replace(packed["cat/1.mp4"], position=99)
    accounts, _ = cut([beyond], tmp_path / "refused")
    assert accounts["cat/1.mp4"].reason == "damaged"
