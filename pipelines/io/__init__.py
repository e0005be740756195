"""What lies on disks and buckets: storage, the root's places, videos, shards, the manifest."""
