"""MLflow: a run for each job, the model registry, the model it serves."""
