"""Stage two: the diffusion model on latents."""
