"""Measurements side by side with published tools; see `make bench`."""
