"""The lengths and sizes of videos that a model makes, beside those that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vqvdm.diffusion.denoiser import DenoiserConfig, read_config
from vqvdm.errors import UserError
from vqvdm.tokenizer import kinds

Shape = tuple[int, int, int]
"""(T, H, W) of a video, in frames and pixels."""


@dataclass(frozen=True)
class VideoShapes:
    """What a model was trained on, and which other shapes its nets take."""

    trained: Shape
    group: int
    """Frames that one latent frame stands for."""
    multiple: int
    """What height and width divide by."""
    any_length: bool
    """Whether frames have positions in seconds; otherwise they have absolute ones, of which there
    are no more than it was trained on."""

    @classmethod
    def of(
        cls, latents: Mapping[str, Any], compression: Shape, denoiser: DenoiserConfig
    ) -> VideoShapes:
        """Those of a model by `latents` of its config.json, and by its tokenizer and denoiser."""
        _, t, h, w = latents["shape"]
        frames, height, width = compression
        trained = t * frames, h * height, w * width
        multiple = math.lcm(height, width) * denoiser.multiple
        return cls(trained, frames, multiple, denoiser.tells_seconds)

    @classmethod
    def read(cls, bundle: Mapping[str, Any], vqgan: Mapping[str, Any]) -> VideoShapes:
        """Those of a bundle, by its config.json and its tokenizer's."""
        compression = kinds.read_config(vqgan).compression
        return cls.of(bundle["latents"], compression, read_config(bundle))

    def at_once(self, frames: int | None = None, size: int | None = None) -> Shape:
        """The shape of videos of this length, height and width that are made at once, by default
        what the model was trained on. `UserError` for a shape that it does not take."""
        longest, height, width = self.trained
        if size is not None:
            self._refuse_rest("size", size, self.multiple)
            height = width = size
        if frames is None:
            return longest, height, width
        if frames > longest and not self.any_length:
            raise UserError(
                f"frames is {frames}: this model uses absolute frame positions and generates at "
                f"most {longest} frames at once; use --mode extend with a model trained with "
                "--conditioning.share (docs/sampling.md)"
            )
        self._refuse_rest("frames", frames, self.group)
        return frames, height, width

    @staticmethod
    def _refuse_rest(name: str, value: int, multiple: int) -> None:
        if value < 1 or value % multiple:
            near = max(1, value // multiple) * multiple
            raise UserError(
                f"{name} is {value}: this model makes multiples of {multiple}; "
                f"give {near} or {near + multiple}, for example"
            )
