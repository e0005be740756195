"""Sharding: listing videos, cutting them into clips, and recording the outcome of each."""
