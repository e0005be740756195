"""MLflow: a run for each job, the model registry, the model it serves.

Every process of a job imports these files, and few of them log anything. MLflow takes as long to
import as PyTorch, so each function imports what it uses of it.
"""
