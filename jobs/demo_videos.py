#!/usr/bin/env python3
"""Write demo videos: handwritten digits in motion, or games at random play."""

from pipelines.demo_videos import demo_videos
from pipelines.recipes.cli import main

if __name__ == "__main__":
    main(demo_videos)
