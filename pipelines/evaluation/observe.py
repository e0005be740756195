"""Watching videos: what one worker finds out of a portion of them, kept for the next time.

An observation is a dict of arrays with a row for each video; it is kept under ROOT/features by
the fingerprint of all that it depends on, so that a killed evaluation goes on where it stopped
and real clips are watched once for all models.

Shapes: N videos, D features, C classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from pipelines.evaluation.detector_files import DetectorFile
from pipelines.io import storage
from pipelines.io.video import Frames
from vqvdm.errors import UserError
from vqvdm.generator import from_uint8, load_vqgan, to_uint8
from vqvdm.metrics import psnr, ssim
from vqvdm.metrics.detectors import Detector
from vqvdm.metrics.frame_classifier import FrameClassifier, detect
from vqvdm.metrics.motion import displacement
from vqvdm.metrics.pixels import WINDOW

FORMAT = 1
"""Changed whenever the same videos would give other observations."""

Observation = dict[str, NDArray]


@dataclass(frozen=True)
class Instruments:
    """What videos are watched with; all of it decides what is found."""

    detector: DetectorFile | None
    classifier: DetectorFile | None
    frames: bytes | None
    """State of a classifier of single frames, as safetensors."""
    lpips: DetectorFile | None
    motion: bool
    ssim: bool

    @property
    def fingerprint(self) -> str:
        files = (self.detector, self.classifier, self.lpips)
        parts = [file and file.sha256 for file in files]
        frames = self.frames and storage.fingerprint(self.frames.hex())
        return storage.fingerprint([FORMAT, parts, frames, self.motion, self.ssim])


def place(folder: str, key: str) -> str:
    """Where the observation of a key is kept."""
    return storage.join(folder, f"{key}.safetensors")


def find_kept(folder: str, key: str) -> bytes | None:
    """The observation kept under a key; None where there is none, or a damaged one."""
    uri = place(folder, key)
    try:
        data = storage.read_bytes(uri)
        load(data)
        return data
    except FileNotFoundError:
        return None
    except Exception as error:
        if isinstance(error, UserError):
            raise
        print(f"{uri} is damaged: watching again", flush=True)
        return None


def kept(folder: str, key: str, make: Callable[[], Observation]) -> bytes:
    """The observation kept under a key, or else a new one, which is kept from now on."""
    data = find_kept(folder, key)
    if data is None:
        # Safetensors writes memory as it lies: views in another order would come back scrambled.
        data = save({name: np.ascontiguousarray(value) for name, value in make().items()})
        storage.publish_bytes(data, place(folder, key))
    return data


def unpack(data: bytes) -> Observation:
    return load(data)


class Observer:
    """Holds the instruments; turns videos into observations."""

    def __init__(self, instruments: Instruments) -> None:
        self.about = instruments
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._detector: Detector | None = (
            instruments.detector.load(self.device) if instruments.detector else None
        )
        self._classifier: Detector | None = None
        if instruments.classifier:
            same = instruments.classifier == instruments.detector
            self._classifier = self._detector if same else instruments.classifier.load(self.device)
        self._frames = frame_classifier(instruments.frames) if instruments.frames else None

    def watch(self, videos: Frames, class_index: NDArray, fps: NDArray) -> Observation:
        """Real or sampled videos uint8 (N, T, H, W, 3) with their classes and rates."""
        seen: Observation = {
            "class_index": np.asarray(class_index, np.int64),
            "fps": np.asarray(fps, np.float64),
        }
        if self._detector:
            seen["features"] = self._detector.features(videos)
        if self._classifier:
            seen["probabilities"] = self._classifier.probabilities(videos)
        if self.about.motion:
            seen["displacement"] = displacement(videos)
        if self._frames:
            found = detect(self._frames, videos)
            right_NT = found.frame_probabilities_NTC.argmax(-1) == seen["class_index"][:, None]
            seen["clip_right"] = found.probabilities_NC.argmax(-1) == seen["class_index"]
            seen["frames_right"] = right_NT.mean(1)
        return seen

    def features(self, videos: Frames) -> Observation:
        """Features alone."""
        assert self._detector
        return {"features": self._detector.features(videos)}

    @torch.inference_mode()
    def compare(self, videos: Frames, reconstruct: Callable[[Frames], Frames]) -> Observation:
        """Real videos with what the tokenizer makes of them, both uint8 (N, T, H, W, 3)."""
        made = reconstruct(videos)
        x, y = (from_uint8(torch.from_numpy(each)) for each in (videos, made))
        seen: Observation = {"reconstructed": made, "psnr": psnr(x, y).numpy()}
        if self.about.ssim and min(x.shape[-2:]) >= WINDOW:
            seen["ssim"] = ssim(x, y).numpy()
        if self.about.lpips:
            seen["lpips"] = self._perceptual(x, y)
        if self._detector:
            seen["features"] = self._detector.features(made)
        return seen

    def _perceptual(self, x_BCTHW: torch.Tensor, y_BCTHW: torch.Tensor) -> NDArray:
        """Mean LPIPS over the frames of each video, (N,)."""
        assert self.about.lpips and self.about.lpips.uri
        with storage.local_copy(self.about.lpips.uri) as path:
            net = torch.jit.load(path, map_location="cpu").eval()
        means = []
        for x, y in zip(x_BCTHW, y_BCTHW, strict=True):
            found = net(x.transpose(0, 1).contiguous(), y.transpose(0, 1).contiguous())
            if found.numel() != x.shape[1] or not found.isfinite().all():
                raise UserError(
                    f"--lpips {self.about.lpips.name} gives {tuple(found.shape)} for "
                    f"{x.shape[1]} pairs of frames: one finite number a pair is due"
                )
            means.append(found.mean().item())
        return np.array(means, np.float64)


def frame_classifier(state: bytes) -> FrameClassifier:
    """The classifier of single frames that `frame_state` kept."""
    from safetensors.torch import load as load_tensors

    weights = load_tensors(state)
    net = FrameClassifier(len(weights["head.weight"]))
    net.load_state_dict(weights)
    return net.eval()


def reconstructor(bundle: str) -> Callable[[Frames], Frames]:
    """The bundle's tokenizer, there and back."""
    names = ("vqgan/config.json", "vqgan/model.safetensors")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="vqvdm-") as folder:
        storage.download_folder(bundle, Path(folder), names)
        vqgan = load_vqgan(Path(folder, "vqgan"), device)

    def reconstruct(videos: Frames) -> Frames:
        x = from_uint8(torch.from_numpy(videos).to(device))
        return to_uint8(vqgan.decode(vqgan.encode(x))).numpy()

    return reconstruct
