#!/usr/bin/env python3
"""Train the tokenizer, a 3D VQGAN, on the clips."""

from pipelines.recipes.cli import main
from pipelines.train_vqgan import train_vqgan

if __name__ == "__main__":
    main(train_vqgan)
