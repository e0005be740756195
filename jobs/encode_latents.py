#!/usr/bin/env python3
"""Encode every clip with the VQGAN and cache the latents."""

from pipelines.encode_latents import encode_latents
from pipelines.recipes.cli import main

if __name__ == "__main__":
    main(encode_latents)
