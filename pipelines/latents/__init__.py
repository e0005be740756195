"""Latents: encoded shard by shard, and audited."""
