"""Detectors: networks that turn whole videos into features and class probabilities.

They are TorchScript files with the interface of the files that published FVD is computed with:

    forward(videos, rescale=True, resize=True, return_features=False)

takes uint8 (B, 3, T, H, W) and returns probabilities (B, C), or features (B, D) with
`return_features`. `c3d_ucf101.pt` takes only the videos and returns only probabilities.

Shapes: B, N videos, T frames, H height, W width, C classes, D features.
"""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from vqvdm.errors import UserError

I3D_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
"""`i3d_torchscript.pt`, 51,235,320 bytes. Several projects pin this checksum."""
WRONG_SHA256 = frozenset({"2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538"})
"""`rgb_imagenet.pt`, 50,883,138 bytes, called `i3d_rgb_imagenet.pt` by inpainting papers. This I3D
has other weights and gives other distances."""
WRONG_FILES = frozenset({"i3d_rgb_imagenet.pt", "rgb_imagenet.pt"})
"""Names of that file, for copies that were saved again and so have another checksum."""
HINT = (
    "FVD takes i3d_torchscript.pt, the inception score c3d_ucf101.pt; docs/evaluation.md says where"
)


class Detector:
    """A network that turns whole videos into features or class probabilities."""

    def __init__(
        self, net: nn.Module, name: str, sha256: str, device: torch.device | str = "cpu"
    ) -> None:
        self.net = net.eval().to(device)
        self.name, self.sha256, self.device = name, sha256, torch.device(device)
        self._asks = _takes(net, "return_features")

    def features(self, videos_NTHWC: NDArray[np.uint8], batch: int = 16) -> NDArray[np.float32]:
        """Features (N, D) of videos uint8; UserError if the network returns anything else."""
        if not self._asks:
            raise UserError(
                f"detector {self.name} gives class probabilities and no features: "
                "it serves the inception score only (--classifier); take another for --detector"
            )
        return self._run(videos_NTHWC, batch, {"return_features": True}, "features")

    def probabilities(
        self, videos_NTHWC: NDArray[np.uint8], batch: int = 16
    ) -> NDArray[np.float32]:
        """Class probabilities (N, C) of videos uint8, each row of sum 1; UserError if not."""
        flags = {"return_features": False} if self._asks else {}
        found_NC = self._run(videos_NTHWC, batch, flags, "probabilities")
        if (found_NC < 0).any() or (np.abs(found_NC.sum(1) - 1) > 1e-3).any():
            raise UserError(
                f"detector {self.name} gives no class probabilities (rows that sum to 1): "
                "it cannot serve the inception score; pass --classifier"
            )
        return found_NC

    @torch.inference_mode()
    def _run(
        self, videos_NTHWC: NDArray[np.uint8], batch: int, flags: dict[str, Any], what: str
    ) -> NDArray[np.float32]:
        if self._asks:
            flags = {"rescale": True, "resize": True} | flags
        parts = []
        for start in range(0, len(videos_NTHWC), batch):
            part = torch.from_numpy(videos_NTHWC[start : start + batch]).to(self.device)
            x_B3THW = rearrange(part, "b t h w c -> b c t h w").contiguous()
            try:
                found = self.net(x_B3THW, **flags)
            except RuntimeError as error:
                last = str(error).strip().splitlines()[-1]
                raise UserError(
                    f"detector {self.name} cannot take videos of {tuple(x_B3THW.shape[1:])} "
                    f"(3, T, H, W): {last}"
                ) from error
            parts.append(_checked(found, len(part), self.name, what))
        return np.concatenate(parts)


def _checked(found: Any, count: int, name: str, what: str) -> NDArray[np.float32]:
    if not (isinstance(found, Tensor) and found.is_floating_point() and found.ndim == 2) or (
        len(found) != count or found.shape[1] < 2
    ):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(
            f"detector {name} gives {shape} for {count} videos where {what} ({count}, D) are due: "
            "docs/evaluation.md states the interface"
        )
    if not found.isfinite().all():
        raise UserError(f"detector {name} gives NaN or infinity: is its file the right one?")
    return found.float().cpu().numpy()


def _takes(net: nn.Module, argument: str) -> bool:
    """Whether the forward of a network, scripted or not, has an argument of this name."""
    if isinstance(net, torch.jit.ScriptModule):
        schema = net.forward.schema  # type: ignore[attr-defined]
        return argument in {a.name for a in schema.arguments}
    return argument in net.forward.__code__.co_varnames


def load_detector(
    path: str | Path, name: str, expected: str | None = None, device: torch.device | str = "cpu"
) -> Detector:
    """Load a TorchScript file; `expected` is the sha256 it must have, in hexadecimal.

    Raises UserError for another checksum, for the wrong I3D, for a state dict or pickle (nothing is
    unpickled), and for TorchScript that cannot be read.
    """
    path = Path(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if expected and found != expected.lower():
        raise UserError(f"{path} has sha256 {found}, not {expected}: download it again")
    if found in WRONG_SHA256 or path.name in WRONG_FILES:
        raise UserError(
            f"{path.name} is i3d_rgb_imagenet.pt, the wrong I3D: published FVD is not computed "
            f"with it. {HINT}"
        )
    if not _is_torchscript(path):
        raise UserError(
            f"{path} is no TorchScript but a state dict, a pickle or something else, as the wrong "
            f"file i3d_rgb_imagenet.pt is. {HINT}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            net = torch.jit.load(path, map_location=device)
    except RuntimeError as error:
        raise UserError(f"{path} cannot be read as TorchScript: {error}") from error
    return Detector(net, name, found, device)


def _is_torchscript(path: Path) -> bool:
    """Whether it is a zip archive with code; archives written by `torch.save` have none."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in member for member in archive.namelist())
