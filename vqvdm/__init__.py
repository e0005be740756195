"""VQ-VDM: a 3D VQGAN and a latent diffusion model that generate videos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vqvdm.errors import UserError

if TYPE_CHECKING:
    from vqvdm.generator import VideoGenerator

__all__ = ["UserError", "VideoGenerator"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: what only decodes videos starts without PyTorch, which takes
    # seconds, and gigabytes of addresses where it is built for GPUs.
    if name == "VideoGenerator":
        from vqvdm.generator import VideoGenerator

        return VideoGenerator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
