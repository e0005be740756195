"""From a bundle on disk to videos: the whole model in two lines.

    generator = VideoGenerator.load("runs/demo/ldm/base")
    videos = generator.sample(classes=["zero", "seven"], fps=8)

Shapes: B batch, N videos, C channels, T frames, H height, W width, D width of a prompt's embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from vqvdm.checkpoint import load_config, load_weights, on_device
from vqvdm.diffusion.average_velocity import refuse_steps
from vqvdm.diffusion.denoiser import Denoiser, build_for
from vqvdm.diffusion.guidance import Conditions, Predict, predict_with
from vqvdm.diffusion.known_latents import KnownLatents
from vqvdm.diffusion.samplers import (
    STEPS,
    Denoise,
    SamplingOptions,
    clipped,
    even_points,
    find_sampler,
    guided_denoise,
    held,
)
from vqvdm.errors import UserError, did_you_mean, listed
from vqvdm.inference import GRAPHS, Precision, prepare_device, ready, resolve_precision
from vqvdm.known_frames import KnownFrames
from vqvdm.seeds import mix
from vqvdm.text_encoder import FOLDER as ENCODER_FOLDER
from vqvdm.text_encoder import Embed, TextEncoder, Texts, check_files, standardised
from vqvdm.tokenizer import kinds
from vqvdm.tokenizer.base import Tokenizer
from vqvdm.tokenizer.pixels import Pixels
from vqvdm.transfer import memory_format
from vqvdm.video_shapes import Shape, VideoShapes
from vqvdm.windows import count_windows, joined, overlap_of, spread

Classes = Sequence[str | Sequence[str | None] | None]
"""For each video the name of its class, None for any, or several names in turn."""

DEFAULT_OPTIONS = SamplingOptions()


def from_uint8(video_BTHWC: Tensor) -> Tensor:
    """Frames uint8 (B, T, H, W, 3) to pixels (B, 3, T, H, W) in [-1, 1]."""
    x = rearrange(video_BTHWC, "b t h w c -> b c t h w").float() / 127.5 - 1
    return x.contiguous(memory_format=memory_format(x.device))


def to_uint8(x_BCTHW: Tensor) -> Tensor:
    """Pixels (B, 3, T, H, W) in about [-1, 1] to frames uint8 (B, T, H, W, 3)."""
    x = (x_BCTHW.float().clamp(-1, 1) + 1) * 127.5
    return rearrange(x.round().to(torch.uint8), "b c t h w -> b t h w c").contiguous().cpu()


class Noise:
    """Standard normal draws (N, *shape). Each video has its own seed, so that it does not depend on
    its neighbours."""

    def __init__(
        self, shape: tuple[int, ...], seeds: Sequence[Sequence[int]], device: torch.device
    ) -> None:
        self._shape, self._device = shape, device
        self._generators = [np.random.default_rng(mix(*seed)) for seed in seeds]

    def __call__(self) -> Tensor:
        draws = [rng.standard_normal(self._shape, np.float32) for rng in self._generators]
        return torch.from_numpy(np.stack(draws)).to(self._device)


def load_vqgan(
    folder: str | Path,
    device: torch.device | str = "cpu",
    decoder_dtype: torch.dtype = torch.float32,
) -> Tokenizer | Pixels:
    """Load the tokenizer of a local export. It encodes in float32 and decodes in
    `decoder_dtype`."""
    folder = Path(folder)
    with torch.device("meta"):
        vqgan = kinds.build_for(load_config(folder))
    vqgan.decoder.to(decoder_dtype)
    load_weights(folder, vqgan)
    on_device(vqgan.eval().requires_grad_(False), device)
    return vqgan


def usual_fps(metadata: Mapping[str, Any]) -> float:
    """The frame rate that videos get where none is named: the middle one of the rates that a model
    was trained at, by its config.json, the higher of two; 16 where it tells none."""
    rates = sorted(metadata.get("fps") or [16.0])
    return float(rates[len(rates) // 2])


class VideoGenerator:
    """A video generator conditioned on classes and, if it was trained so, on captions: denoiser,
    sampler and decoder."""

    def __init__(
        self, denoiser: Denoiser, vqgan: Tokenizer | Pixels, metadata: dict[str, Any]
    ) -> None:
        """Takes nets on one device as they are; `load` also makes them ready to run.

        `metadata` is the bundle's config.json.
        """
        self.denoiser, self.vqgan, self.metadata = denoiser, vqgan, metadata
        self.folder: Path | None = None
        """The bundle, where it was loaded from one: its text encoder is read with the first
        prompt."""
        self.classes: list[str] = metadata["classes"]
        device = next(denoiser.parameters()).device
        mean, std = (torch.tensor(metadata["latents"][k], device=device) for k in ("mean", "std"))
        self._mean_C111, self._std_C111 = mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)

    @property
    def compression(self) -> Shape:
        """Pixels per latent position along (t, h, w)."""
        return self.vqgan.config.compression

    @property
    def group(self) -> int:
        """Frames that one latent frame stands for: conditioning frames come in such groups."""
        return self.compression[0]

    @property
    def shapes(self) -> VideoShapes:
        """The lengths and sizes of the videos that the model makes."""
        latents = self.metadata["latents"]
        return VideoShapes.of(latents, self.compression, self.denoiser.config)

    @property
    def video_shape(self) -> Shape:
        """(T, H, W) of the videos that the model was trained on."""
        return self.shapes.trained

    @property
    def takes_known(self) -> bool:
        """Whether the model was trained with conditioning frames."""
        return self.denoiser.inputs.known_frames

    @property
    def takes_prompts(self) -> bool:
        """Whether the model was trained with captions."""
        return self.denoiser.inputs.text_width > 0

    @cached_property
    def text_encoder(self) -> Embed:
        """What turns prompts into embeddings: the bundle's own, or what is assigned. `UserError` if
        `transformers` is not installed, or the encoder is missing."""
        assert self.folder is not None, "assign a text encoder"
        there = [path.name for path in (self.folder / ENCODER_FOLDER).glob("*")]
        check_files(str(self.folder), self.metadata, there)
        return TextEncoder(self.folder / ENCODER_FOLDER, self._mean_C111.device)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: torch.device | str = "cpu",
        precision: Precision = "auto",
        compile: bool = False,
    ) -> VideoGenerator:
        """Load a local bundle, ldm/NAME; `UserError` if it is incomplete.

        `precision` applies to the denoiser and the decoder: `auto` is bf16 where the device is
        fast at it. The sampler and the quantiser always compute in float32. With `compile`, both
        nets are compiled at the first batch, and again for every other number of videos: it pays
        on a GPU for many batches of one size.
        """
        folder = Path(folder)
        prepare_device(device)
        metadata = load_config(folder)
        dtype = resolve_precision(precision, torch.device(device))
        with torch.device("meta"):
            denoiser = build_for(metadata).to(dtype)
        load_weights(folder, denoiser)
        vqgan = load_vqgan(folder / "vqgan", device, dtype)
        ready(denoiser, device, dtype, packed=not compile)
        ready(vqgan.decoder, device, dtype, packed=not compile)
        generator = cls(denoiser, vqgan, metadata)
        generator.folder = folder
        if compile:
            generator.compile()
        return generator

    def compile(self, backend: str = "inductor", mode: str | None = GRAPHS) -> None:
        """Compile denoiser and decoder in place, for each number of videos apart.

        The mode replays the kernels of a whole net as one CUDA graph, as launching those of
        nets this small takes longer than running them. Another backend has no modes.
        """
        options = {"mode": mode} if backend == "inductor" else {}
        self.denoiser.compile(backend=backend, dynamic=False, **options)
        self.vqgan.decoder.compile(backend=backend, dynamic=False, **options)

    def _predict(
        self, z_BCTHW: Tensor, time_B: Tensor, conditions: Conditions, length: float | None = None
    ) -> Tensor:
        """What the denoiser predicts; one of average velocities, over a `length` of time."""
        interval_B = None if length is None else torch.full_like(time_B, length)
        found = predict_with(self.denoiser, z_BCTHW, time_B, conditions, interval_B)
        # A copy, because a CUDA graph writes every result to the same place.
        return found.clone()

    def _denoise(self, conditions: Conditions, steps: int, options: SamplingOptions) -> Denoise:
        """Data and noise by the denoiser; `UserError` for a number of steps that it cannot do."""
        objective = self.metadata["objective"]
        predict: Predict = self._predict
        guidance = options.guidance
        if objective["name"] == "average_velocity":
            refuse_steps(steps, objective["intervals"])
            predict, guidance = partial(self._predict, length=1 / steps), 1.0
        interval = options.guidance_interval
        return guided_denoise(predict, conditions, objective["name"], guidance, interval)

    @staticmethod
    def check_classes(wanted: Sequence[str | None], known: Sequence[str]) -> None:
        """`UserError` for an unknown class, which suggests a similar one. None is allowed."""
        for name in wanted:
            if name is not None and name not in known:
                listing = listed(known) or "none, the model is unconditional"
                hint = did_you_mean(name, known)
                raise UserError(f"unknown class {name!r}: {hint}Classes: {listing}")

    def class_indices(self, classes: Sequence[str | None]) -> list[int]:
        """Index of each class; None stands for "no class". `UserError` for an unknown one."""
        self.check_classes(classes, self.classes)
        return [len(self.classes) if c is None else self.classes.index(c) for c in classes]

    def _refuse_known(self) -> None:
        """`UserError` unless the model was trained with conditioning frames."""
        if not self.takes_known:
            raise UserError(
                "this model was not trained with conditioning frames: "
                "train one by jobs/train_ldm.py --conditioning.share 0.5"
            )

    def _embedded(self, prompts: Texts) -> Tensor | None:
        """The standardised embeddings of prompts, zeros for none; None of a model that takes none.
        `UserError` if it is given some."""
        asked = _has_text(prompts)
        if not self.takes_prompts:
            if asked:
                raise UserError(
                    "this model was trained without captions, and takes no prompts: encode them by "
                    "jobs/encode_latents.py --text-encoder FOLDER, and train a model on that"
                )
            return None
        device = self._mean_C111.device
        if asked:
            trained = self.metadata["text"]
            mean_D = torch.tensor(trained["mean"], device=device)
            return standardised(self.text_encoder(prompts).to(device), mean_D, trained["std"])
        return torch.zeros(len(prompts), self.denoiser.inputs.text_width, device=device)

    @torch.inference_mode()
    def encode_known(self, known: KnownFrames, shape: Shape | None = None) -> KnownLatents:
        """The raw latents of conditioning frames, in videos of a shape, by default that of the
        training; `UserError` for frames that do not fit the model."""
        self._refuse_known()
        known.check(len(known.videos_NTHWC), shape or self.video_shape, self.group)
        device = self._mean_C111.device
        x = from_uint8(torch.from_numpy(known.filled()).to(device))
        groups = torch.from_numpy(known.groups(self.group)).to(device)
        return KnownLatents(self.vqgan.encode(x), groups)

    @torch.inference_mode()
    def sample_latents(
        self,
        classes: Sequence[str | None],
        fps: float | None = None,
        *,
        prompts: Texts | None = None,
        shape: Shape | None = None,
        known: KnownLatents | None = None,
        seed: int | Sequence[tuple[int, ...]] = 0,
        options: SamplingOptions = DEFAULT_OPTIONS,
        **changes: Any,
    ) -> Tensor:
        """Raw latents (N, C, T, H, W), one for each class named; see `sample`. `shape` is that of
        the videos, by default as trained. `known` are raw latents of conditioning frames, as of
        `encode_known`; they come back unchanged."""
        options = replace(options, **changes)
        options.check()
        fps = usual_fps(self.metadata) if fps is None else fps
        if not 0 < fps < math.inf:
            raise UserError(f"fps is {fps}: it must be above 0, and finite")
        classes, prompts = _paired(classes, prompts)
        seeds = _seeds(seed, len(classes))
        objective = self.metadata["objective"]["name"]
        sampler = find_sampler(objective, options.sampler)
        device = self._mean_C111.device
        class_B = torch.tensor(self.class_indices(classes), device=device)
        fps_B = torch.full((len(classes),), float(fps), device=device)
        channels = self.metadata["latents"]["shape"][0]
        positions = zip(shape or self.video_shape, self.compression, strict=True)
        noise = Noise((channels, *(size // stride for size, stride in positions)), seeds, device)
        steps = options.steps or self.metadata.get("sampling_steps", STEPS)
        if known is not None:
            self._refuse_known()
            normalised = (known.z_BCTHW - self._mean_C111) / self._std_C111
            known = known._replace(z_BCTHW=normalised)
        conditions = Conditions(class_B, fps_B, len(self.classes), self._embedded(prompts), known)
        if known is None and all(name is None for name in classes) and not _has_text(prompts):
            # There is nothing to be guided towards.
            options = replace(options, guidance=1.0)
        denoise = self._denoise(conditions, steps, options)
        if known is not None:
            denoise = held(denoise, known)
        if isinstance(self.vqgan, Pixels):
            denoise = clipped(denoise, *((x - self._mean_C111) / self._std_C111 for x in (-1, 1)))
        z = sampler(denoise, noise(), even_points(objective, steps), noise)
        if known is not None:
            z = known.put(z)
        return z * self._std_C111 + self._mean_C111

    @torch.inference_mode()
    def sample(
        self,
        classes: Classes | None = None,
        fps: float | None = None,
        *,
        prompts: Texts | None = None,
        frames: int | None = None,
        size: int | None = None,
        at_once: bool = False,
        known: KnownFrames | None = None,
        seed: int | Sequence[tuple[int, ...]] = 0,
        options: SamplingOptions = DEFAULT_OPTIONS,
        **changes: Any,
    ) -> NDArray[np.uint8]:
        """Sample one video for each class named, or for each prompt; None stands for any class, and
        for no prompt.

        `prompts` are texts of what videos show, for a model that was trained with captions: one for
        each video, beside its class or without any. `fps` is the frame rate to imitate, by default
        `usual_fps` of the model. `frames` is the length of the videos, by default that of the
        training clips; a model that takes conditioning frames makes longer ones window by window,
        unless `at_once`, and they may pass through several classes: a list of names in place of
        one. `size` is their height and width, by default as trained; for lengths and sizes that the
        model takes see `shapes`. `known` are conditioning frames of the first window, to continue
        or to interpolate between; they come back as the decoder reconstructs them, so that no seam
        is seen. `seed` is one number for all videos, or a tuple of numbers for each. `changes` are
        fields of `SamplingOptions` to replace in `options`: `steps`, `guidance`, `sampler` and
        `guidance_interval`. A distilled model samples in 1, 2, 4 or so steps, with the guidance
        that it was distilled with.

        Returns uint8 (N, T, H, W, 3). Raises `UserError` for an unknown class, a sampler or a
        number of steps that does not fit the model, a number out of its range, a length or size
        that it does not make, conditioning frames for a model that was not trained with
        `conditioning.share`, or prompts for one that was trained without captions.
        """
        classes, prompts = _paired(classes, prompts)
        window, windows, overlap = self.video_shape[0], 1, 0
        length = window if frames is None else frames
        if length > window and self.takes_known and not at_once:
            latents = window // self.group
            windows, overlap = count_windows(length, latents, self.group), overlap_of(latents)
        else:
            window = length
        shape = self.shapes.at_once(window, size)
        names = [spread(_several(each), windows) for each in classes]
        given = None
        if known is not None:
            known.check(len(classes), shape, self.group)
            given = self.encode_known(known, shape)
        seeds, options = _seeds(seed, len(classes)), replace(options, **changes)
        videos: NDArray[np.uint8] | None = None
        for number, current in enumerate(zip(*names, strict=True)):
            own = [(*each, number) for each in seeds] if number else seeds
            z = self.sample_latents(
                current,
                fps,
                prompts=prompts,
                shape=shape,
                known=given,
                seed=own,
                options=options,
            )
            made = to_uint8(self.vqgan.decode(z)).numpy()
            videos = made if videos is None else joined(videos, made, overlap * self.group)
            given = _last_half(z, overlap) if overlap else None
        assert videos is not None
        return videos


Asked = TypeVar("Asked", Classes, Texts)


def _paired(classes: Asked | None, prompts: Texts | None) -> tuple[Asked | list[None], Texts]:
    """Classes and prompts, one of each a video, None for those that are missing. `UserError` if
    both are missing, or their numbers differ."""
    if isinstance(classes, str) or not (classes or (prompts and classes is None)):
        raise UserError("classes must be a list of names, one for each video")
    if isinstance(prompts, str):
        raise UserError("prompts must be a list of texts, one for each video")
    if classes is None:
        assert prompts
        classes = [None] * len(prompts)
    if prompts is None:
        prompts = [None] * len(classes)
    if len(prompts) != len(classes):
        raise UserError(f"{len(prompts)} prompts for {len(classes)} classes: give as many of each")
    return classes, prompts


def _has_text(prompts: Texts) -> bool:
    """Whether one of the prompts is a text, and not blank."""
    return any(prompt and prompt.strip() for prompt in prompts)


def _seeds(seed: int | Sequence[tuple[int, ...]], count: int) -> Sequence[tuple[int, ...]]:
    """A seed for each video; `UserError` if their number differs."""
    seeds = seed if isinstance(seed, Sequence) else [(seed, i) for i in range(count)]
    if len(seeds) != count:
        raise UserError(f"{len(seeds)} seeds for {count} classes: give as many of each")
    return seeds


def _several(name: str | Sequence[str | None] | None) -> Sequence[str | None]:
    """The classes that a video passes through."""
    return [name] if name is None or isinstance(name, str) else name


def _last_half(z_BCTHW: Tensor, overlap: int) -> KnownLatents:
    """What the next window is conditioned on: the last `overlap` latent frames, as its first."""
    shifted = torch.cat([z_BCTHW[:, :, -overlap:], z_BCTHW[:, :, :-overlap]], dim=2)
    is_first_T = torch.arange(shifted.shape[2], device=shifted.device) < overlap
    return KnownLatents(shifted, is_first_T.expand(len(shifted), -1))
