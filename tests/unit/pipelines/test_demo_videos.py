"""Demo videos: the same bytes anywhere, a different digit each, in steady motion."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pipelines import demo_videos as page
from pipelines.demo_videos import DemoVideos
from pipelines.video import Frames, encoder, header
from vqvdm.errors import UserError


def small(root: Path, count: int = 10, dry_run: bool = False, seed: int = 0) -> DemoVideos:
    return DemoVideos(
        root=str(root), count=count, size=32, duration_s=0.25, seed=seed, dry_run=dry_run
    )


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.mp4")}


def test_the_same_bytes_anywhere(tmp_path: Path) -> None:
    assert page.demo_videos(small(tmp_path / "a")) == "10 videos, 10 of them new"
    page.demo_videos(small(tmp_path / "b"))
    page.demo_videos(small(tmp_path / "c", seed=1))
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys() and not set(a.values()) & set(c.values())
    assert sorted(a) == sorted(f"videos/{name}/{name}-000.mp4" for name in page.CLASSES)
    assert len(set(a.values())) == 10
    info = header.probe(str(tmp_path / "a/videos/zero/zero-000.mp4"))
    assert (info.fps, info.width, info.height, info.duration_s) == (16.0, 32, 32, 0.25)


def test_existing_videos_are_kept(tmp_path: Path) -> None:
    page.demo_videos(small(tmp_path))
    old = tmp_path / "videos/two/two-000.mp4"
    old.write_bytes(b"mine")
    (tmp_path / "videos/one/one-000.mp4").unlink()
    assert page.demo_videos(small(tmp_path, count=11)) == "11 videos, 2 of them new"
    assert old.read_bytes() == b"mine"


def test_every_video_has_a_digit_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = list[bytes]()

    def record(image: NDArray[np.float64], config: DemoVideos, rng: np.random.Generator) -> Frames:
        digits.append(image.tobytes())
        return np.zeros((1, 16, 16, 3), np.uint8)

    monkeypatch.setattr(page, "digit_video", record)
    monkeypatch.setattr(encoder, "encode_h264", lambda frames, fps: b"")
    page.demo_videos(small(tmp_path, count=200))
    assert len(set(digits)) == len(digits) == 200
    X, y = load_digits(return_X_y=True)
    labels = {image.tobytes(): label for image, label in zip(X, y, strict=True)}
    assert [labels[digit] for digit in digits] == list(range(10)) * 20


@pytest.mark.parametrize("count", [0, -1, 1797])
def test_there_are_only_so_many_digits(tmp_path: Path, count: int) -> None:
    with pytest.raises(UserError, match="--count"):
        page.demo_videos(small(tmp_path, count))


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    assert "would write 10 videos" in page.demo_videos(small(tmp_path, dry_run=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("velocity", [-70.0, -1.0, 0.0, 3.0, 250.0])
def test_bouncing_stays_in_the_room(velocity: float) -> None:
    positions = [page.bounce(4.0, velocity, 10.0, index / 100) for index in range(500)]
    assert positions[0] == 4.0
    assert all(0 <= position <= 10 for position in positions)
    steps = np.abs(np.diff(positions))
    assert steps.max() <= abs(velocity) / 100 + 1e-9
    assert np.median(steps) == pytest.approx(abs(velocity) / 100)


@pytest.mark.parametrize("fps", [8.0, 16.0])
def test_a_digit_moves_at_its_speed(fps: float) -> None:
    config = DemoVideos(size=128, fps=fps, duration_s=4.0, speed_px_s=32.0)
    clear = list[float]()
    for number, image in enumerate(load_digits().images[:5]):
        frames = page.digit_video(image, config, np.random.default_rng([0, number]))
        light_THW = frames[..., 0].astype(float) - page.BACKGROUND
        assert light_THW.min() == 0 and light_THW.max() <= page.INK - page.BACKGROUND
        grid = np.arange(128)
        mass = light_THW.sum((1, 2))
        centre_T2 = np.stack(
            [(light_THW.sum(axis) * grid).sum(1) / mass for axis in (1, 2)], axis=1
        )
        # The digit fills 56 pixels: it turns back with its middle at about 28 from a wall.
        away = ((centre_T2 > 48) & (centre_T2 < 80)).all(1)
        steps = np.linalg.norm(np.diff(centre_T2, axis=0), axis=1)
        clear += steps[away[1:] & away[:-1]].tolist()
    assert len(clear) > 10
    np.testing.assert_allclose(clear, 32 / fps, atol=0.1)
