#!/usr/bin/env python3
"""Say what a training will see of a root, what was lost and why, and what looks wrong."""

from pipelines.inspect_data import inspect_data
from pipelines.recipes.cli import main

if __name__ == "__main__":
    main(inspect_data)
