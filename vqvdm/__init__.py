"""VQ-VDM: a 3D VQGAN and a latent diffusion model that generate videos."""

from vqvdm.errors import UserError
from vqvdm.generator import VideoGenerator

__all__ = ["UserError", "VideoGenerator"]
