#!/usr/bin/env python3
"""Distil a trained latent diffusion model into one that samples in a few steps."""

from pipelines.distill_ldm import distill_ldm
from pipelines.recipes.cli import main

if __name__ == "__main__":
    main(distill_ldm)
