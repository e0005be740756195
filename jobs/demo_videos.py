#!/usr/bin/env python3
"""Write the demo's videos: handwritten digits in motion."""

from pipelines.demo_videos import demo_videos
from pipelines.recipes.cli import main

if __name__ == "__main__":
    main(demo_videos)
