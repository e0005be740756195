"""Evaluation: real clips, features, statistics, metrics, report."""
