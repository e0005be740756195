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
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

DEVICE = "VQVDM_DEVICE"
"""Environment variable: cpu, cuda or cuda:1; by default the GPU, where there is one."""
MOST_VIDEOS = "VQVDM_MAX_VIDEOS"
"""Environment variable: the most videos of one request, which are in memory at once; 64 by
default."""
MOST_CHARACTERS = 10_000
"""Characters of a prompt: text encoders read some hundred words, and cut what is longer."""
LARGEST = 16
"""Times the pixels of a video of the training that one may have: attention takes the square."""
BOUNDS = {
    "steps": (1, 1000),
    "guidance": (0, 100),
    "fps": (0.1, 1000),
    "frames": (1, 10_000),
    "size": (1, 10_000),
}
"""The least and the most of each number of a request: beyond them a server is busy for hours, or
numbers overflow."""


class RequestError(MlflowException):
    """A request that is refused: the server answers 400 with the one line, and without the rows
    of the request, which MLflow puts before it."""

    def __init__(self, line: str) -> None:
        super().__init__(line, INVALID_PARAMETER_VALUE)
        self.line = line

    def serialize_as_json(self) -> str:
        self.message = self.line
        return super().serialize_as_json()


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
        """A table with the columns `class` (empty for any), `fps` and, of a model that was trained
        with captions, `prompt` (empty for none) to uint8 (N, T, H, W, 3).

        `params` may hold steps, guidance, seed, and the frames and size of all videos. Rows of one
        frame rate are sampled together; a video depends only on its row, the row's position and
        the seed. `RequestError` for too many rows, steps or pixels, for prompts that are too long,
        and for what the model cannot do.
        """
        from vqvdm.errors import UserError

        params = params or {}
        check_request(model_input["fps"], params)
        check_pixels(len(model_input), params, self.generator.video_shape)
        try:
            return self.sample(model_input, params)
        except UserError as error:
            raise RequestError(str(error)) from error

    def sample(self, model_input: pd.DataFrame, params: dict[str, Any]) -> np.ndarray:
        """As `predict`, of a request within bounds."""
        classes, prompts = (texts_in(model_input, name) for name in ("class", "prompt"))
        check_prompts(prompts)
        rates = model_input["fps"].to_numpy(float)
        seed = int(params.get("seed", 0))
        videos: dict[int, np.ndarray] = {}
        for fps in sorted(set(rates.tolist())):
            rows = np.flatnonzero(rates == fps).tolist()
            made = self.generator.sample(
                [classes[row] for row in rows],
                fps=fps,
                prompts=[prompts[row] for row in rows],
                steps=params.get("steps"),
                guidance=float(params.get("guidance", 2.0)),
                frames=params.get("frames"),
                size=params.get("size"),
                seed=[(seed, row) for row in rows],
            )
            videos |= dict(zip(rows, made, strict=True))
        return np.stack([videos[row] for row in range(len(rates))])


def texts_in(model_input: pd.DataFrame, name: str) -> list[str | None]:
    """A column of texts: it may be left out, and what is empty comes as None or not a number."""
    texts = model_input[name] if name in model_input else [None] * len(model_input)
    return [None if pd.isna(text) or text == "" else str(text) for text in texts]


def check_prompts(prompts: list[str | None]) -> None:
    """`RequestError` for a prompt that is longer than any encoder reads."""
    longest = max(len(prompt or "") for prompt in prompts)
    if longest > MOST_CHARACTERS:
        raise RequestError(f"prompt of {longest} characters: send at most {MOST_CHARACTERS}")


def most_videos() -> int:
    """The most videos of one request."""
    return int(os.environ.get(MOST_VIDEOS) or 64)


def check_pixels(count: int, params: dict[str, Any], trained: tuple[int, int, int]) -> None:
    """`RequestError` for a video of many times the pixels of the trained (T, H, W), and for more
    pixels in all than the most videos of that shape have."""
    frames, height, width = trained
    asked, size = params.get("frames") or frames, params.get("size")
    times = asked * (size**2 if size else height * width) / (frames * height * width)
    if times > LARGEST or count * times > most_videos():
        raise RequestError(
            f"{count} videos of {asked} frames and size {size or height} in one request: send "
            f"fewer, shorter or smaller ones, at most the pixels of {most_videos()} videos of "
            f"{frames} frames and size {height}, and in one video those of {LARGEST}"
        )


def check_request(fps: pd.Series, params: dict[str, Any]) -> None:
    """`RequestError` for too many videos, or none, and for numbers out of bounds."""
    most = most_videos()
    if not 1 <= len(fps) <= most:
        raise RequestError(
            f"{len(fps)} videos in one request: send 1 to {most}, or set {MOST_VIDEOS} where the "
            "server is started"
        )
    numbers = [("fps", rate) for rate in fps] + list(params.items())
    for name, number in numbers:
        low, high = BOUNDS.get(name, (-np.inf, np.inf))
        if number is not None and not low <= number <= high:
            shown = f"{number}"[:20]
            raise RequestError(f"{name} is {shown}: it must be between {low} and {high}")


mlflow.models.set_model(GeneratorModel())
