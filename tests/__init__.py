"""Tests: unit/ mirrors the source, e2e/ runs jobs, gpu/ needs a GPU."""
