"""Features of a batch of videos, and the cache that keeps them for the next evaluation.

Features are arrays with a row for each video. They are cached under ROOT/features by the
fingerprint of all that they depend on: a killed evaluation continues where it stopped, and all
models share the features of real clips.

Shapes: N videos, D features, C classes.
"""

from __future__ import annotations

import hashlib
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from pipelines.evaluation.detectors import DetectorFile
from pipelines.evaluation.frame_classifier import FrameClassifier, frame_probabilities
from pipelines.evaluation.motion import displacement
from pipelines.evaluation.thumbnails import thumbnails
from pipelines.io import checksums, storage
from pipelines.io.bundles import MODEL
from pipelines.video import Frames
from vqvdm.errors import UserError
from vqvdm.generator import from_uint8, load_vqgan, to_uint8
from vqvdm.metrics import psnr, ssim
from vqvdm.metrics.detectors import Detector
from vqvdm.metrics.pixels import WINDOW

FORMAT = 2
"""Changed whenever the same videos would give other features."""

CPU = torch.device("cpu")

Features = dict[str, NDArray]
"""What is extracted, by name: `features` of the detector, `probabilities`, `psnr` and so on."""


@dataclass(frozen=True)
class FeatureSpec:
    """What is extracted, and by which networks."""

    detector: DetectorFile | None
    classifier: DetectorFile | None
    frames: bytes | None
    """State of a classifier of single frames, as safetensors."""
    lpips: DetectorFile | None
    motion: bool
    ssim: bool
    thumbnails: bool

    @property
    def fingerprint(self) -> str:
        """A checksum of all fields: files are known by their content."""
        values = {field.name: _content(getattr(self, field.name)) for field in fields(self)}
        return checksums.fingerprint([FORMAT, values])


def _content(value: Any) -> Any:
    if isinstance(value, DetectorFile):
        return value.sha256
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value


def cache_uri(folder: str, key: str) -> str:
    """Where the features of a key are cached."""
    return storage.join(folder, f"{key}.safetensors")


def find_cached(folder: str, key: str) -> bytes | None:
    """The features cached under a key; None if they are missing or damaged."""
    uri = cache_uri(folder, key)
    try:
        data = storage.read_bytes(uri)
        load(data)
        return data
    except FileNotFoundError:
        return None
    except Exception as error:
        if isinstance(error, UserError):
            raise
        print(f"{uri} is damaged: extracting the features again", flush=True)
        return None


def cached(folder: str, key: str, make: Callable[[], Features]) -> bytes:
    """The features cached under a key; otherwise computes and caches them."""
    data = find_cached(folder, key)
    if data is None:
        # Safetensors writes raw memory: views in another memory order would load scrambled.
        data = save({name: np.ascontiguousarray(value) for name, value in make().items()})
        storage.publish_bytes(data, cache_uri(folder, key))
    return data


def unpack(data: bytes) -> Features:
    return load(data)


class FeatureExtractor:
    """Holds the networks; turns videos into features."""

    def __init__(self, spec: FeatureSpec, device: torch.device = CPU) -> None:
        self.spec, self.device = spec, device
        self._detector: Detector | None = spec.detector.load(self.device) if spec.detector else None
        self._classifier: Detector | None = None
        if spec.classifier:
            same = spec.classifier == spec.detector
            self._classifier = self._detector if same else spec.classifier.load(self.device)
        self._frames = frame_classifier(spec.frames).to(device) if spec.frames else None
        self._lpips: torch.jit.ScriptModule | None = None

    def extract(self, videos: Frames, class_index: NDArray, fps: NDArray) -> Features:
        """Features of real or sampled videos uint8 (N, T, H, W, 3), their classes and rates."""
        found: Features = {
            "class_index": np.asarray(class_index, np.int64),
            "fps": np.asarray(fps, np.float64),
        }
        if self._detector:
            found["features"] = self._detector.features(videos)
        if self._classifier:
            found["probabilities"] = self._classifier.probabilities(videos)
        if self.spec.thumbnails:
            found["thumbnails"] = thumbnails(videos)
        if self.spec.motion:
            found["displacement"] = displacement(videos)
        if self._frames:
            probabilities_NTC = frame_probabilities(self._frames, videos)
            right_NT = probabilities_NTC.argmax(-1) == found["class_index"][:, None]
            found["clip_right"] = probabilities_NTC.mean(1).argmax(-1) == found["class_index"]
            found["frames_right"] = right_NT.mean(1)
        return found

    @torch.inference_mode()
    def compare(self, videos: Frames, reconstruct: Callable[[Frames], Frames]) -> Features:
        """Compare real videos with their reconstructions, both uint8 (N, T, H, W, 3)."""
        made = reconstruct(videos)
        x, y = (from_uint8(torch.from_numpy(each).to(self.device)) for each in (videos, made))
        found: Features = {"reconstructed": made, "psnr": psnr(x, y).cpu().numpy()}
        if self.spec.ssim and min(x.shape[-2:]) >= WINDOW:
            found["ssim"] = ssim(x, y).cpu().numpy()
        if self.spec.lpips:
            found["lpips"] = self._perceptual(x, y)
        if self._detector:
            found["features"] = self._detector.features(made)
        return found

    def _perceptual(self, x_BCTHW: torch.Tensor, y_BCTHW: torch.Tensor) -> NDArray:
        """Mean LPIPS over the frames of each video, (N,)."""
        assert self.spec.lpips and self.spec.lpips.uri
        if self._lpips is None:
            with storage.copy_on_any_node(self.spec.lpips.uri, "--lpips") as path:
                if storage.sha256(path) != self.spec.lpips.sha256:
                    raise UserError(
                        f"--lpips {self.spec.lpips.uri} on {socket.gethostname()} is another file "
                        "than the job was started with"
                    )
                self._lpips = torch.jit.load(path, map_location=self.device).eval()
        means = []
        for x, y in zip(x_BCTHW, y_BCTHW, strict=True):
            found = self._lpips(x.transpose(0, 1).contiguous(), y.transpose(0, 1).contiguous())
            if found.numel() != x.shape[1] or not found.isfinite().all():
                raise UserError(
                    f"--lpips {self.spec.lpips.name} gives {tuple(found.shape)} for "
                    f"{x.shape[1]} pairs of frames: expected one finite number a pair"
                )
            means.append(found.mean().item())
        return np.array(means, np.float64)


def frame_classifier(state: bytes) -> FrameClassifier:
    """The classifier of single frames that `frame_classifier_state` trained."""
    weights = {name: torch.from_numpy(array) for name, array in load(state).items()}
    net = FrameClassifier(len(weights["head.weight"]))
    net.load_state_dict(weights)
    return net.eval()


def reconstructor(bundle: str, device: torch.device = CPU) -> Callable[[Frames], Frames]:
    """A function that encodes and decodes videos with the bundle's tokenizer."""
    with tempfile.TemporaryDirectory(prefix="vqvdm-") as folder:
        storage.download_folder(storage.join(bundle, "vqgan"), Path(folder), MODEL)
        vqgan = load_vqgan(Path(folder), device)

    def reconstruct(videos: Frames) -> Frames:
        x = from_uint8(torch.from_numpy(videos).to(device))
        return to_uint8(vqgan.decode(vqgan.encode(x))).numpy()

    return reconstruct
