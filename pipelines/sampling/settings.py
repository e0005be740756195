"""What `sample` takes, and whatever else samples."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

from pipelines.settings import PoolJob, Switch
from vqvdm.diffusion.samplers import SamplingOptions
from vqvdm.errors import UserError
from vqvdm.generator import usual_fps
from vqvdm.ranges import Count, NotNegative, Positive, Seed, Share


@dataclass(frozen=True)
class Sampling(PoolJob):
    """How videos are sampled."""

    ldm: str = "base"
    """Name of the model."""
    steps: Count | None = None
    """Sampling steps; by default a distilled model's own number, or --default-steps. A distilled
    model takes 1, 2 or 4, or what else it was distilled for."""
    default_steps: Count = 20
    """Sampling steps of a model that is not distilled, unless --steps is given."""
    sampler: str | None = None
    """heun, euler or dpm for a flow; ddpm, ddim or dpm otherwise; by default the model's best."""
    guidance: NotNegative = 2.0
    """Weight of classifier-free guidance; 1 is none. A distilled model has its own built in,
    whatever this says."""
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    """Times from 0 (data) to 1 (noise) within which guidance is applied."""
    batch_size: Count = 20
    """Videos made at once by a worker."""
    seed: Seed = 0
    compile: Switch = "auto"
    """`torch.compile` of the nets; auto is on with a GPU and many batches for a worker."""

    NOT_RECIPE: ClassVar[frozenset[str]] = PoolJob.NOT_RECIPE | {"compile", "default_steps"}

    def check(self) -> None:
        super().check()
        self.options.check()

    def _with(self, name: str, value: Any) -> Self:
        """The same with another value of a setting."""
        resolved = copy.copy(self)  # `replace` would lose the preset's name
        object.__setattr__(resolved, name, value)
        return resolved

    def for_model(self, bundle: Mapping[str, Any]) -> Self:
        """The same with the number of steps that a bundle is sampled in, by its config.json."""
        return self._with("steps", self.steps or bundle.get("sampling_steps") or self.default_steps)

    def sampled_by(self) -> dict[str, Any]:
        """All settings that the pixels of a sample depend on, besides the model's files, the
        device and what is asked for. A setting added to `Sampling` is among them."""
        # A model is known by its files, not its name; `steps` are those that hold for it.
        ignored = Sampling.NOT_RECIPE | {"ldm", "default_steps"}
        return {f.name: getattr(self, f.name) for f in fields(Sampling) if f.name not in ignored}

    @property
    def options(self) -> SamplingOptions:
        return SamplingOptions(self.steps, self.guidance, self.sampler, self.guidance_interval)


Mode = Literal["generate", "predict", "interpolate", "extend"]


@dataclass(frozen=True)
class Sample(Sampling):
    """Sample videos from a trained model."""

    output: str | None = None
    """Name to publish under: samples/OUTPUT; by default the model's."""

    NOT_RECIPE: ClassVar[frozenset[str]] = Sampling.NOT_RECIPE | {
        "output",
        "condition",
        "prompts_file",  # What it holds is among the prompts.
    }
    LATER: ClassVar[Mapping[str, Any]] = {
        "prompts": (),
        "mode": "generate",
        "known_frames": None,
        "frames": None,
        "size": None,
    }

    classes: str = "all"
    """Classes to sample, separated by commas, or all; with --mode extend, several joined by colons
    (one:seven) follow each other in one video. With --condition, all stands for the class that
    the folder of each condition is named after, or none; with --prompts, for none."""
    prompts: tuple[str, ...] = ()
    """Texts of what videos show, for a model that was trained with captions: "a red ball" "a blue
    ball". Each is made of every class that is named."""
    prompts_file: str | None = None
    """Text file of further prompts, one a line."""
    num_per_class: Count = 4
    """Videos of each class, of each prompt and of each condition."""
    fps: Positive | None = None
    """Frame rate to ask the model for and to write; by default the middle one of those that it was
    trained at, the higher of two."""
    mode: Mode = "generate"
    """generate: from nothing. predict: go on from the first frames of --condition. interpolate:
    make what lies between its first and last frames. extend: videos of --frames, longer than the
    model was trained on, from nothing or from --condition."""
    condition: str | None = None
    """Video or picture to start from, or folder of some."""
    known_frames: Count | None = None
    """Frames that are given: the first ones, or as many at either end for interpolate; by default
    half a clip in all. A single frame is held for as long as one latent frame lasts."""
    frames: Count | None = None
    """Length of the videos; by default that of the clips that the model was trained on. With --mode
    generate they are made at once, which for longer ones takes a model that tells frames by
    seconds; with --mode extend window by window."""
    size: Count | None = None
    """Height and width of the videos; by default those that the model was trained on."""

    def check(self) -> None:
        super().check()
        self._check_mode()

    def for_model(self, bundle: Mapping[str, Any]) -> Self:
        """The same with the steps and the frame rate that suit a bundle, by its config.json."""
        return super().for_model(bundle)._with("fps", self.fps or usual_fps(bundle))

    @property
    def rate(self) -> float:
        """The frame rate, once it is resolved `for_model`."""
        assert self.fps is not None
        return self.fps

    def for_size(self, trained: int) -> Self:
        """The same without a size if it is what the model was trained on."""
        return self._with("size", None) if self.size == trained else self

    def with_prompts(self, prompts: Sequence[str]) -> Self:
        """The same with these prompts, each once."""
        return self._with("prompts", tuple(dict.fromkeys(prompts)))

    def _check_mode(self) -> None:
        """`UserError` for settings that this mode does not take, or misses."""
        if self.mode == "generate" and self.condition is not None:
            raise UserError(
                "--condition does not go with --mode generate: "
                "pass --mode predict, interpolate or extend"
            )
        if self.mode in ("predict", "interpolate") and self.condition is None:
            raise UserError(
                f"--mode {self.mode} starts from frames that are given: pass --condition, "
                "a video or a folder of them"
            )
        if self.known_frames is not None and self.condition is None:
            raise UserError("--known-frames counts the frames of a --condition: pass one")
        if self.mode == "extend" and self.frames is None:
            raise UserError("--mode extend needs --frames: how long the videos are to be")
