"""Sampling: the worker that makes videos on request."""
