#!/usr/bin/env python3
"""Measure the trained model against real clips."""

from pipelines.evaluate import evaluate
from pipelines.recipes.cli import main

if __name__ == "__main__":
    main(evaluate)
