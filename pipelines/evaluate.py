"""Evaluation: how good reconstructions and samples are, beside real clips.

ldm/NAME ──▶ pool of actors ──▶ samples ──┐
clips/val ──▶ real, reconstructed ────────┴──▶ metrics ──▶ eval/NAME
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines import report, tracking
from pipelines.config.scale import local_cpus
from pipelines.config.schema import Evaluate, parse_rates
from pipelines.io import shards, storage, workspace
from pipelines.io.video import Frames
from pipelines.io.workspace import require
from pipelines.progress import Progress
from pipelines.sample import BUNDLE, Request, generation_graph, grid
from pipelines.training.loader import Loader, clip_arrays
from vqvdm.errors import UserError
from vqvdm.generator import from_uint8, load_vqgan, to_uint8
from vqvdm.metrics import frechet_distance, psnr
from vqvdm.metrics.detectors import Detection, detect, train_frame_classifier
from vqvdm.metrics.motion import displacement

METRICS = ("psnr", "accuracy", "frechet", "motion")
DETECTOR_CLIPS = 1500
"""At most so many training clips are shown to the classifier."""


@dataclass(frozen=True)
class Videos:
    """Videos with what is known of them."""

    frames_NTHWC: Frames
    class_index_N: NDArray[np.int64]
    fps_N: NDArray[np.float64]


def real_videos(config: Evaluate, index: dict[str, Any], split: str, count: int) -> Videos | None:
    """At most `count` real clips of a split, evenly spread."""
    folder = config.workspace.clips
    markers = shards.load_markers(folder, index, "shard_videos")
    markers = [marker for marker in markers if marker.split == split and marker.keys]
    if not markers:
        return None
    loader = Loader(folder, markers, "shard_videos", clip_arrays, threads=local_cpus())
    parts = [batch.tensors for batch in loader.first(count, 32)]
    video, label, fps = (
        torch.cat([part[name] for part in parts]).numpy()
        for name in ("video", "class_index", "fps")
    )
    return Videos(video, label, fps.astype(np.float64))


def sampled_videos(config: Evaluate, classes: Sequence[str], rates: Sequence[float]) -> Videos:
    """Samples spread evenly over classes and frame rates."""
    labels: Sequence[str | None] = list(classes) or [None]
    requests = [
        Request(labels[i % len(labels)], i, rates[i // len(labels) % len(rates)])
        for i in range(config.num_samples)
    ]
    made: dict[Request, Frames] = {}
    watch = Progress("samples", len(requests))
    for row in generation_graph(config, requests).iter_rows():
        made.update(zip(row["requests"], row["videos"], strict=True))
        watch.add(len(row["requests"]))
    return Videos(
        np.stack([made[request] for request in requests]),
        np.array([labels.index(request.label) if classes else -1 for request in requests]),
        np.array([request.fps for request in requests]),
    )


def reconstruct(config: Evaluate, real: Videos) -> tuple[Frames, dict[str, float]]:
    """Real clips through the bundle's tokenizer and back, with the PSNR in dB."""
    torch.set_num_threads(local_cpus())
    with tempfile.TemporaryDirectory(prefix="vqvdm-") as folder:
        storage.download_folder(config.workspace.ldm(config.ldm), Path(folder), BUNDLE)
        vqgan = load_vqgan(Path(folder, "vqgan"))
    frames, quality = [], []
    with torch.inference_mode():
        for start in range(0, len(real.frames_NTHWC), 16):
            x = from_uint8(torch.from_numpy(real.frames_NTHWC[start : start + 16]))
            y = vqgan.decode(vqgan.encode(x)).clamp(-1, 1)
            frames.append(to_uint8(y).numpy())
            quality.append(psnr(x, y))
    return np.concatenate(frames), {"psnr": torch.cat(quality).mean().item()}


def accuracy(seen: Detection, videos: Videos, prefix: str) -> dict[str, float]:
    """Share of videos, and of frames judged alone, that are taken for their class."""
    label_N = videos.class_index_N
    clip = seen.probabilities_NC.argmax(-1) == label_N
    frame = seen.frame_probabilities_NTC.argmax(-1) == label_N[:, None]
    return {
        f"{prefix}/clip_accuracy": float(clip.mean()),
        f"{prefix}/frame_accuracy": float(frame.mean()),
    }


def motion(videos: Videos, prefix: str) -> dict[str, float]:
    """Mean displacement in pixels a frame at each rate, and lowest over highest rate."""
    rates = sorted(set(videos.fps_N.tolist()))
    moved = displacement(videos.frames_NTHWC)
    means = {rate: float(moved[videos.fps_N == rate].mean()) for rate in rates}
    figures = {f"{prefix}/displacement_at_{rate:g}fps": mean for rate, mean in means.items()}
    if len(rates) > 1:
        figures[f"{prefix}/displacement_ratio"] = means[rates[0]] / max(means[rates[-1]], 1e-9)
    return figures


def measure(
    config: Evaluate, wanted: Sequence[str], real: Videos, fake: Videos, train: Videos | None
) -> dict[str, float]:
    """All metrics that compare samples with real clips; `train` teaches the classifier."""
    figures: dict[str, float] = {}
    if "motion" in wanted:
        figures |= motion(real, "real") | motion(fake, "samples")
    if train is not None and {"accuracy", "frechet"} & set(wanted):
        classes = int(train.class_index_N.max()) + 1
        net = train_frame_classifier(
            train.frames_NTHWC, train.class_index_N, classes, config.detector_steps
        )
        seen_real, seen_fake = (detect(net, videos.frames_NTHWC) for videos in (real, fake))
        if "accuracy" in wanted:
            figures |= accuracy(seen_real, real, "real") | accuracy(seen_fake, fake, "samples")
        if "frechet" in wanted:
            distance = frechet_distance(seen_real.features_ND, seen_fake.features_ND)
            figures["samples/frechet_builtin"] = distance
    return figures


def comparison(real: Frames, reconstructed: Frames, fake: Frames, fps: float) -> bytes:
    """A GIF with a row each of real clips, their reconstructions, and samples."""
    columns = min(8, len(real), len(fake))
    rows = (real[:columns], reconstructed[:columns], fake[:columns])
    return grid(list(np.concatenate(rows)), columns, fps)


def evaluate(config: Evaluate) -> str:
    """Measure ROOT/ldm/NAME and publish ROOT/eval/NAME."""
    config.check()
    space = config.workspace
    wanted = [name.strip() for name in config.metrics.split(",")]
    unknown = sorted(set(wanted) - set(METRICS))
    if unknown:
        raise UserError(f"unknown metric {unknown[0]!r}: choose from {', '.join(METRICS)}")
    if config.detector != "builtin":
        raise UserError(f"--detector {config.detector}: only builtin is there yet")
    index = require(space.clips, "index.json", "shard_videos")
    bundle = require(space.ldm(config.ldm), "config.json", "train_ldm")
    rates = chosen_rates(config.fps, bundle["fps"])
    folder = space.eval(config.ldm)
    recipe = storage.fingerprint([config.recipe(), bundle["fingerprint"], index["fingerprint"]])
    done = workspace.published(folder, "metrics.json")
    if config.dry_run:
        return f"would compare {config.num_samples} samples with real clips, into {folder}"
    if done and not config.overwrite:
        workspace.refuse_other(folder, done["recipe"], recipe)
        return f"{headline(done['metrics'])} (there already)"

    inputs = {"ldm": bundle["fingerprint"], "clips": index["fingerprint"]}
    with tracking.run("evaluate", config, inputs) as run:
        real = real_videos(config, index, "val", max(config.num_samples, 256))
        train = real_videos(config, index, "train", DETECTOR_CLIPS)
        assert train is not None
        held_out = real or train
        fake = sampled_videos(config, bundle["classes"], rates)
        reconstructed, figures = reconstruct(config, held_out)
        labelled = len(bundle["classes"]) > 1
        figures |= measure(config, wanted, held_out, fake, train if labelled else None)
        picture = comparison(held_out.frames_NTHWC, reconstructed, fake.frames_NTHWC, min(rates))
        result = {
            "recipe": recipe,
            "metrics": figures,
            "protocol": {
                "samples": config.num_samples,
                "real_clips": len(held_out.frames_NTHWC),
                "real_split": "val" if real else "train",
                "steps": config.steps,
                "guidance": config.guidance,
                "sampler": config.sampler,
                "fps": rates,
                "seed": config.seed,
                "detector": "frame classifier trained on the real training clips; its figures "
                "compare with those of the same data only",
            },
        }
        page = report.page(config, bundle, result, picture)
        storage.publish_bytes(page.encode(), storage.join(folder, "report.html"))
        storage.publish_json(result, storage.join(folder, "metrics.json"))
        run.bytes(page.encode(), "report.html")
        run.bytes(picture, "comparison.gif")
        run.metrics(figures)
        run.output(recipe)
    return headline(figures)


def chosen_rates(text: str, known: Sequence[float]) -> list[float]:
    """The frame rates of `--fps`; by default the lowest and the highest of the data."""
    if text == "all":
        return sorted({min(known), max(known)})
    return sorted(parse_rates(text, "all"))


def headline(figures: dict[str, float]) -> str:
    """The main figures in words."""
    names = {
        "psnr": "PSNR {:.1f} dB",
        "samples/clip_accuracy": "class accuracy {:.2f}",
        "real/clip_accuracy": "(real clips {:.2f})",
        "samples/displacement_ratio": "displacement ratio {:.2f}",
        "real/displacement_ratio": "(real {:.2f})",
    }
    return " ".join(text.format(figures[name]) for name, text in names.items() if name in figures)
