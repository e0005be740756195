"""Inspection: what a root holds, seen by a training, and what looks wrong about it."""
