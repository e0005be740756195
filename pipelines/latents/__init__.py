"""Latents: encoding them shard by shard, and their audit."""
