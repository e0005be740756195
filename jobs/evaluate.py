#!/usr/bin/env python3
"""Measure the trained model against real clips."""

from pipelines.config.cli import main
from pipelines.evaluate import evaluate

if __name__ == "__main__":
    main(evaluate)
