"""Sharding: which videos there are, where their clips lie, and what became of each."""
