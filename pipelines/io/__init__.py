"""Files on disks and in buckets: storage, shards, the places under a root."""
