"""The grid is an animation of all videos."""

import io
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageFont

from pipelines.video import Frames
from pipelines.video.grid import CAPTION, MOST_PIXELS, Fit, _fitting, fit, grid


def flashing(*colour: int) -> Frames:
    """A video in one colour that grows darker."""
    steps = np.array([1.0, 0.75, 0.5])[:, None, None, None]
    return (np.full((3, 8, 12, 3), colour) * steps).astype(np.uint8)


def test_the_grid_is_an_animation_of_all_videos() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (200, 200, 200), (250, 250, 0)]
    gif = Image.open(io.BytesIO(grid([flashing(*c) for c in colours], columns=2, fps=8)))
    assert (gif.format, gif.size) == ("GIF", (2 * 12, 3 * 8))
    assert (getattr(gif, "n_frames", 1), gif.info["loop"]) == (3, 0)
    for index in range(3):
        gif.seek(index)
        assert gif.info["duration"] == pytest.approx(125, abs=10)  # GIF counts in 10 ms
        frame = np.asarray(gif.convert("RGB")).astype(int)
        for place, colour in enumerate([*colours, (0, 0, 0)]):
            top, left = place // 2 * 8, place % 2 * 12
            wanted = np.array(colour) * (1 - index / 4)
            assert np.abs(frame[top : top + 8, left : left + 12] - wanted).max() <= 8


def test_captions_stand_above_the_rows() -> None:
    videos = [np.full((2, 16, 64, 3), 100, np.uint8)] * 2
    plain = Image.open(io.BytesIO(grid(videos, 1, 8)))
    captioned = Image.open(io.BytesIO(grid(videos, 1, 8, ["zero", "b\udcff"])))
    assert plain.size == (64, 32) and captioned.size == (64, 32 + 2 * CAPTION)
    rows = np.asarray(captioned.convert("L")).astype(int)
    strips = rows[:CAPTION], rows[16 + CAPTION : 16 + 2 * CAPTION]
    assert all(strip.max() > 180 and (strip < 40).mean() > 0.5 for strip in strips)
    assert (strips[0] != strips[1]).any()
    assert np.abs(rows[CAPTION : CAPTION + 16] - 100).max() <= 4


def test_a_caption_that_is_cut_ends_with_dots() -> None:
    font = ImageFont.load_default(CAPTION - 3)
    assert _fitting("a red ball", font, 100) == "a red ball"
    line = _fitting("a red\nball " * 1000, font, 60)
    assert line.startswith("a red") and line.endswith("…") and "\n" not in line
    assert 40 < font.getlength(line) <= 60
    assert _fitting("a red ball", font, 1) == "…"


@pytest.mark.parametrize(
    ("rows", "columns", "shape", "wanted"),
    [
        (16, 8, (16, 128, 128), Fit(8, 1, 1)),  # just as much as fits
        (3, 8, (128, 64, 64), Fit(8, 1, 1)),
        (3, 8, (129, 64, 64), Fit(8, 2, 1)),
        (16, 8, (16, 256, 256), Fit(2, 1, 1)),
        (16, 8, (960, 128, 128), Fit(1, 8, 1)),
        (16, 8, (960, 256, 256), Fit(1, 8, 2)),  # 120 frames of 16 x 128x128
        (1, 1, (128, 1024, 1024), Fit(1, 1, 2)),
    ],
)
def test_what_fits_into_a_grid(
    rows: int, columns: int, shape: tuple[int, int, int], wanted: Fit
) -> None:
    assert fit(rows, columns, shape) == wanted
    frames, height, width = (
        -(-shape[0] // wanted.step),
        *(-(-n // wanted.shrink) for n in shape[1:]),
    )
    assert rows * wanted.columns * frames * height * width <= MOST_PIXELS


def test_what_a_row_is_about_is_shown_however_large_it_is() -> None:
    assert fit(16, 8, (960, 128, 128), fewest=2) == Fit(2, 8, 2)


def test_videos_are_made_smaller() -> None:
    video = np.zeros((2, 5, 8, 3), np.uint8)
    video[:, :, 4:] = 200
    with Image.open(io.BytesIO(grid([video] * 2, 2, 8, shrink=2))) as picture:
        assert picture.size == (2 * 4, 3)
        shown = np.asarray(picture.convert("L")).astype(int)
    assert np.abs(shown - [0, 0, 200, 200] * 2).max() <= 4


def test_one_video_is_held_at_a_time() -> None:
    made: list[weakref.ref] = []

    def videos() -> Iterator[Frames]:
        for shade in range(12):
            # The last one may still be at hand.
            assert sum(each() is not None for each in made) <= 1
            video = np.full((3, 8, 12, 3), 20 * shade, np.uint8)
            made.append(weakref.ref(video))
            yield video
            del video

    with Image.open(io.BytesIO(grid(videos(), columns=3, fps=8))) as picture:
        assert picture.size == (3 * 12, 4 * 8)
        assert abs(picture.convert("L").getpixel((35, 31)) - 220) <= 4  # type: ignore[operator]
    assert len(made) == 12
