#!/usr/bin/env python3
"""Train a detector on the labelled clips, for inception score and Fréchet distance."""

from pipelines.recipes.cli import main
from pipelines.train_detector import train_detector

if __name__ == "__main__":
    main(train_detector)
