"""Demo videos: digits in motion or games at play, one folder a class.

    (class, number) ──▶ frames ──▶ CLASS/CLASS-000.mp4 ──▶ val_list.txt (of games)

Each video is a function of the seed, its class and its number. Those that are there are kept, so a
job that was killed resumes where it stopped. Games are played in one task a video.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pipelines.cluster import tasks
from pipelines.cluster.placement import join_for_tasks
from pipelines.demo.digits import digit_video, most_videos
from pipelines.demo.games import game_video, require_ale
from pipelines.demo.settings import DIGITS, GAMES, VAL_LIST, DemoVideos
from pipelines.io import storage
from pipelines.io.progress import Progress
from pipelines.video.encoder import encode_h264
from vqvdm.errors import UserError

VAL_EVERY, VAL_FIRST = 10, 1
"""Of each game the videos number 1, 11, 21, … are kept for validation: their seeds are no others'
seeds, and two videos of a game are enough to have one of them."""
GAME_VIDEO = re.compile(rf"({'|'.join(GAMES)})/\1-(\d{{3,}})\.mp4")


def video_path(label: str, number: int) -> str:
    """Where a video lies below the folder of videos."""
    return f"{label}/{label}-{number:03d}.mp4"


def write_digit(config: DemoVideos, label: str, number: int) -> None:
    video = encode_h264(digit_video(config, label, number), config.format.fps)
    storage.publish_bytes(video, storage.join(config.videos_uri, video_path(label, number)))


def write_games(config: DemoVideos, videos: list[tuple[str, int]]) -> Iterator[int]:
    """Have games played and recorded, one task a video; yields the frames of each."""
    folder, fps = config.videos_uri, config.format.fps

    def write(row: dict) -> dict:
        frames = game_video(config, row["label"], row["number"])
        uri = storage.join(folder, video_path(row["label"], row["number"]))
        storage.publish_bytes(encode_h264(frames, fps), uri)
        return {"frames": len(frames)}

    join_for_tasks()
    rows = [{"label": label, "number": number} for label, number in videos]
    found = tasks.run(rows, write, num_cpus=1, concurrency=config.num_workers)
    yield from (row["frames"] for row in found)


def val_list(paths: Iterable[str]) -> str:
    """The paths of the videos for validation among those of games, one a line."""
    found = filter(None, (GAME_VIDEO.fullmatch(path) for path in sorted(paths)))
    chosen = [match[0] for match in found if int(match[2]) % VAL_EVERY == VAL_FIRST]
    return "".join(f"{path}\n" for path in chosen)


def demo_videos(config: DemoVideos) -> str:
    """Write videos, one folder a class; existing files are kept."""
    config.check()
    count, classes, folder = config.format.count, config.classes, config.videos_uri
    if config.kind == "games":
        require_ale()
    elif count > most_videos():
        raise UserError(
            f"--count must lie in 1 to {most_videos()}: every video shows a different digit"
        )
    present = {file.uri.removeprefix(f"{folder}/") for file in storage.walk(folder)}
    refuse_other_kind(config, present)
    if config.dry_run:
        return f"would write {count} videos into {folder}"
    videos = [(classes[index % len(classes)], index // len(classes)) for index in range(count)]
    missing = [video for video in videos if video_path(*video) not in present]
    if config.kind == "digits":
        for video in missing:
            write_digit(config, *video)
    else:
        progress = Progress("videos", len(missing))
        for frames in write_games(config, missing) if missing else ():
            progress.add(1, frames=frames)
        listing = val_list(present | {video_path(*video) for video in missing})
        storage.publish_bytes(listing.encode(), storage.join(folder, VAL_LIST))
    return f"{count} videos, {len(missing)} of them new"


def refuse_other_kind(config: DemoVideos, present: Iterable[str]) -> None:
    """`UserError` if the folder holds videos of the other kind, which would become classes too."""
    others = GAMES if config.kind == "digits" else DIGITS
    found = sorted({path.split("/")[0] for path in present} & set(others))
    if found:
        raise UserError(
            f"{config.videos_uri} holds videos of {found[0]}, not of {config.kind}: "
            "pass another --root or --videos"
        )
