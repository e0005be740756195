#!/usr/bin/env python3
"""Cut videos into clips, packed in WebDataset shards."""

from pipelines.recipes.cli import main
from pipelines.shard_videos import shard_videos

if __name__ == "__main__":
    main(shard_videos)
