#!/usr/bin/env python3
"""Sample videos from the trained model."""

from pipelines.recipes.cli import main
from pipelines.sample import sample

if __name__ == "__main__":
    main(sample)
