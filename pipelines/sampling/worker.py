"""The worker that makes videos for sampling and evaluation.

Shapes: N videos, T frames, H height, W width.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch

from pipelines.cluster.devices import Devices, worker_device
from pipelines.cluster.gpu_memory import enough_memory
from pipelines.io import checksums, lock, storage, workspace
from pipelines.io.bundles import BUNDLE, fetch_encoder
from pipelines.sampling.conditions import ClipShape, known_frames
from pipelines.sampling.settings import Sample, Sampling
from pipelines.settings import resolve_switch
from pipelines.video import Frames
from pipelines.video.encoder import decode_clips, encode_h264
from pipelines.video.lossless import encode_lossless
from vqvdm.generator import VideoGenerator
from vqvdm.inference import Precision, compiles_by_default
from vqvdm.text_encoder import FOLDER, TextEncoder

COMPILE_FROM = 8
"""Batches of each worker from which on compiling, about a minute, is worth its time on a GPU."""
BATCHES = "batches"
"""Folder below the samples where finished batches are noted, while a job runs."""
PRECISION = "precision.json"
"""The file there that tells what videos are made in."""


@dataclass(frozen=True)
class Request:
    """One video to make."""

    label: str | None
    """Its class, or several in turn, joined by colons."""
    number: int
    fps: float
    condition: int | None = None
    """Number of the video that it starts from."""
    prompt: str | None = None
    """A text of what it shows."""

    @property
    def title(self) -> str:
        """Its class and prompt."""
        return title_of(self.label, self.prompt)

    @property
    def folder(self) -> str:
        """The class as the name of one folder: what would lead elsewhere is percent-encoded."""
        if self.label in (".", ".."):
            return self.label.replace(".", "%2E")
        return re.sub(r"[/\x00-\x1f]", lambda m: f"%{ord(m[0]):02X}", self.label or "unlabelled")

    @property
    def file(self) -> str:
        return f"{self.folder}/{self.number:05d}.mp4"

    def seed(self, base: int) -> tuple[int, ...]:
        """The seed of this video, which does not depend on the other requests."""
        name = hashlib.sha256((self.label or "").encode()).digest()[:8]
        return base, int.from_bytes(name), self.number


def title_of(label: str | None, prompt: str | None) -> str:
    """A class and a prompt in a line; empty without either."""
    return ", ".join(filter(None, (label, prompt)))


class SamplingWorker:
    """Holds the generator; turns requests into videos."""

    def __init__(
        self,
        bundle: str,
        config: Sampling,
        precision: Precision,
        devices: Devices,
        batches: int = 1,
        prompted: bool = False,
    ) -> None:
        """`batches` of videos are to come, for all workers together; of some, with `prompted`, a
        prompt says what they show."""
        torch.set_num_threads(devices.threads())
        self.config, self._prompted = config, prompted
        self._shares_gpu = 0 < devices.gpus_per_worker < 1
        self._bundle, self._precision, self._kind = bundle, precision, devices.kind
        many = batches >= COMPILE_FROM * devices.workers
        auto = many and compiles_by_default(devices.kind)
        self._compiled = resolve_switch(config.compile, auto)

    @cached_property
    def device(self) -> torch.device:
        return worker_device(self._kind)

    @cached_property
    def generator(self) -> VideoGenerator:
        """Loaded at first use: an error at the start of an actor loses its class, and could not be
        reported in one line."""
        with tempfile.TemporaryDirectory(prefix="vqvdm-") as folder:
            storage.download_folder(self._bundle, Path(folder), BUNDLE)
            return self._loaded(Path(folder))

    def _loaded(self, folder: Path) -> VideoGenerator:
        """The generator of a bundle that lies in a folder for as long as this takes."""
        generator = VideoGenerator.load(folder, self.device, self._precision, self._compiled)
        if self._prompted:
            fetch_encoder(self._bundle, folder, generator.metadata)
            name = storage.join(self._bundle, FOLDER)
            generator.text_encoder = TextEncoder(folder / FOLDER, self.device, name)
        return generator

    @property
    def cure_for_memory(self) -> str:
        """The flags with which sampling takes less memory."""
        flags = [f"--batch-size {self.config.batch_size // 2}"] * (self.config.batch_size > 1)
        flags += ["--gpus-per-worker 1"] * self._shares_gpu
        flags += ["a smaller --size"] * (not flags and isinstance(self.config, Sample))
        return f"pass {', '.join(flags)}" if flags else "take a GPU with more"

    def videos(self, requests: Sequence[Request]) -> Frames:
        """Videos uint8 (N, T, H, W, 3) of requests of one frame rate."""
        config, wanted = self.config, list(requests)
        if self._compiled:
            # Nets are compiled for each number of videos: a short batch is filled up.
            wanted += [requests[0]] * (config.batch_size - len(requests))
        with enough_memory(self.cure_for_memory):
            return self._sampled(wanted)[: len(requests)]

    def _sampled(self, requests: Sequence[Request]) -> Frames:
        return self.generator.sample(
            [request.label for request in requests],
            requests[0].fps,
            prompts=[request.prompt for request in requests],
            seed=[request.seed(self.config.seed) for request in requests],
            options=self.config.options,
        )


class PublishingWorker(SamplingWorker):
    """Makes the videos of batches and publishes them: no video passes through the driver."""

    config: Sample

    def __init__(
        self,
        bundle: str,
        config: Sample,
        precision: Precision,
        devices: Devices,
        batches: Sequence[SampleBatch],
    ) -> None:
        prompted = bool(config.prompts)
        super().__init__(bundle, config, precision, devices, len(batches), prompted)
        self.batches = batches

    def __call__(self, row: dict) -> dict:
        """Takes {"batch": the number of one}, adds {"rows": its rows, as JSON}."""
        batch = self.batches[row["batch"]]
        if batch.owner:
            lock.refuse_unseen_once(batch.folder, batch.owner)
        videos = self.videos(batch.requests)
        # The device has nothing to do meanwhile: all cores of this worker encode.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            rows = list(pool.map(partial(self._publish, batch), batch.requests, videos))
        batch.finish(rows)
        return row | {"rows": checksums.json_bytes(rows)}

    def _sampled(self, requests: Sequence[Request]) -> Frames:
        config, generator = self.config, self.generator
        known, folder = None, self.batches[0].folder
        conditions = [each.condition for each in requests if each.condition is not None]
        if conditions:
            frames, height, _ = generator.shapes.at_once(size=config.size)
            clips = decode_clips([read_condition(folder, number) for number in conditions])
            known = known_frames(config, ClipShape(frames, height, generator.group), clips)
        return generator.sample(
            [classes_in_turn(request.label, generator.classes) for request in requests],
            requests[0].fps,
            prompts=[request.prompt for request in requests],
            frames=config.frames,
            size=config.size,
            at_once=config.mode == "generate",
            known=known,
            seed=[request.seed(config.seed) for request in requests],
            options=config.options,
        )

    def _publish(self, batch: SampleBatch, request: Request, video: Frames) -> dict:
        """The row of a video that is encoded and uploaded."""
        mp4 = encode_h264(video, request.fps)
        storage.publish_bytes(mp4, storage.join(batch.folder, request.file))
        return {
            "file": request.file,
            "class": request.label,
            "fps": request.fps,
            "seed": request.seed(self.config.seed),
            "sha256": hashlib.sha256(mp4).hexdigest(),
            "recipe": batch.recipe,
        } | self._given_to(batch, request)

    def _given_to(self, batch: SampleBatch, request: Request) -> dict:
        """What a row tells besides of a video that was not made of its class alone."""
        told = {} if request.prompt is None else {"prompt": request.prompt}
        if self.config.mode == "generate":
            return told
        given = None if request.condition is None else batch.conditions[request.condition]
        return told | {"mode": self.config.mode, "condition": given}


@dataclass(frozen=True)
class SampleBatch:
    """Videos that a worker makes at once. Its rows are kept until the job has ended: a job that
    was killed resumes with the batches that are left."""

    folder: str
    recipe: str
    requests: tuple[Request, ...]
    conditions: tuple[str, ...] = ()
    """Names of the videos that the job starts from, by their numbers."""
    owner: str | None = None
    """Id of the holder of the folder's lock, which workers have to see."""

    @property
    def _place(self) -> tuple[str, str]:
        wanted = [[each.label, each.number, each.fps] for each in self.requests]
        return storage.join(self.folder, BATCHES), f"{checksums.fingerprint(wanted)}.json"

    def finish(self, rows: list[dict]) -> None:
        """Note that all videos are published."""
        storage.publish_json(rows, storage.join(*self._place))

    def finished(self) -> list[dict] | None:
        """The rows of the batch, if its videos are there, intact and of this recipe."""
        rows = workspace.published(*self._place)
        if not rows or any(row["recipe"] != self.recipe for row in rows):
            return None
        return rows if all(is_intact(self.folder, row) for row in rows) else None


def begun_in(batch: SampleBatch) -> Precision | None:
    """What batches of this recipe were begun in; None if no job has begun."""
    noted = workspace.published(storage.join(batch.folder, BATCHES), PRECISION) or {}
    return noted.get("precision") if noted.get("recipe") == batch.recipe else None


def note_precision(batch: SampleBatch, precision: Precision) -> None:
    """Note for `begun_in` what the batches of this one's recipe are made in."""
    noted = {"recipe": batch.recipe, "precision": precision}
    storage.publish_json(noted, storage.join(batch.folder, BATCHES, PRECISION))


def is_intact(folder: str, row: dict) -> bool:
    """Whether the video of a row is there, below the folder, and the one that was published."""
    if not storage.is_below(row["file"]):
        return False
    return storage.sha256_or_none(storage.join(folder, row["file"])) == row["sha256"]


def publish_condition(folder: str, number: int, clip_THWC: Frames, fps: float) -> str:
    """Keep a fitted condition beside the batches, where every worker finds it; returns its name
    below the folder."""
    name = _condition_file(number)
    storage.publish_bytes(encode_lossless(clip_THWC, fps), storage.join(folder, name))
    return name


def read_condition(folder: str, number: int) -> bytes:
    """The lossless clip of a condition that was published."""
    return storage.read_bytes(storage.join(folder, _condition_file(number)))


def _condition_file(number: int) -> str:
    return f"{BATCHES}/condition-{number:05d}.mkv"


def classes_in_turn(label: str | None, known: Sequence[str]) -> list[str | None]:
    """The classes that a label names: one, or several joined by colons."""
    return [None] if label is None else [name for name, _ in names_among(label, ":", known)]


def names_among(text: str, separators: str, known: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The names in a list of them, each with the separator behind it, which the last one lacks.

    Names may hold separators: of those known that may stand at a place the longest is taken, else
    what comes before the next separator.
    """
    longest_first, separator = sorted(known, key=len, reverse=True), separators
    while separator:
        text = text.lstrip()
        name = next(
            (
                each
                for each in longest_first
                if text.startswith(each) and text[len(each) :].lstrip()[:1] in separators
            ),
            re.split(f"[{separators}]", text, maxsplit=1)[0],
        )
        rest = text[len(name) :].lstrip()
        separator, text = rest[:1], rest[1:]
        yield name.strip(), separator


def in_batches(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """Requests in groups of one frame rate and at most `size`."""
    groups = []
    for fps in dict.fromkeys(request.fps for request in requests):
        same = [request for request in requests if request.fps == fps]
        groups += [same[start : start + size] for start in range(0, len(same), size)]
    return groups
