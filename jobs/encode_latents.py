#!/usr/bin/env python3
"""Encode every clip with the VQGAN and cache the latents."""

from pipelines.config.cli import main
from pipelines.encode_latents import encode_latents

if __name__ == "__main__":
    main(encode_latents)
