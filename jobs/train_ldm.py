#!/usr/bin/env python3
"""Train the latent diffusion model on the cached latents."""

from pipelines.recipes.cli import main
from pipelines.train_ldm import train_ldm

if __name__ == "__main__":
    main(train_ldm)
