"""The model that MLflow serves: its registry keeps this file beside the bundle, and no pickle.

MLflow runs this file alone when a model is loaded ("models from code"), so it imports nothing
of `pipelines`.
"""

from __future__ import annotations

import os
from typing import Any

import mlflow.models
import mlflow.pyfunc
import numpy as np
import pandas as pd

DEVICE = "VQVDM_DEVICE"
"""Environment variable: cpu, cuda or cuda:1; by default the GPU, where there is one."""


class GeneratorModel(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined]
    """Turns rows of requests into videos."""

    def load_context(self, context: Any) -> None:
        from vqvdm import VideoGenerator
        from vqvdm.inference import default_device

        # A server has no other settings than its environment.
        device = os.environ.get(DEVICE) or default_device()
        self.generator = VideoGenerator.load(context.artifacts["bundle"], device)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """A table with the columns `class` (empty for any) and `fps` to uint8 (N, T, H, W, 3).

        `params` may hold steps, guidance and seed. Rows of one frame rate are sampled together;
        a video depends only on its row, the row's position and the seed.
        """
        params = params or {}
        classes = [name or None for name in model_input["class"].tolist()]
        rates = model_input["fps"].to_numpy(float)
        seed = int(params.get("seed", 0))
        videos: dict[int, np.ndarray] = {}
        for fps in sorted(set(rates.tolist())):
            rows = np.flatnonzero(rates == fps).tolist()
            made = self.generator.sample(
                [classes[row] for row in rows],
                fps=fps,
                steps=params.get("steps"),
                guidance=float(params.get("guidance", 2.0)),
                seed=[(seed, row) for row in rows],
            )
            videos |= dict(zip(rows, made, strict=True))
        return np.stack([videos[row] for row in range(len(rates))])


mlflow.models.set_model(GeneratorModel())
