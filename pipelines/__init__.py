"""The pipelines: one page for each job on top, and below the packages that it uses."""
