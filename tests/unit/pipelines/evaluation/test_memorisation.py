"""A copier is found however many clips it copies, and a good generator is not accused."""

import tracemalloc

import numpy as np
import pytest

from pipelines.evaluation.batches import ClipRef
from pipelines.evaluation.memorisation import NEIGHBOURS, Search, memorisation
from pipelines.evaluation.metrics import Metrics
from pipelines.evaluation.thumbnails import REGIONS, TIMES, mirrored, thumbnails
from vqvdm.errors import UserError

WIDTH = TIMES * REGIONS**2 * 3


def world(rng: np.random.Generator) -> np.ndarray:
    """What clips of a data set vary in: a dozen directions of unequal weight."""
    return rng.standard_normal((12, WIDTH)) * np.linspace(30, 5, 12)[:, None]


def clips(rng: np.random.Generator, directions: np.ndarray, count: int) -> np.ndarray:
    rows = 128 + rng.standard_normal((count, 12)) @ directions + rng.standard_normal((count, WIDTH))
    return rows.clip(0, 255).round().astype(np.uint8)


def blurred(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    """As a tokenizer leaves them: each number off by some levels."""
    return (rows + 3 * rng.standard_normal(rows.shape)).clip(0, 255).round().astype(np.uint8)


def refs(count: int) -> list[ClipRef]:
    return [ClipRef("train-0", f"v{i}", 0) for i in range(count)]


def judged(samples: np.ndarray, held_out: np.ndarray, train: np.ndarray) -> dict[str, float]:
    both = Search(samples), Search(held_out)
    names = refs(len(train))
    for start in range(0, len(train), 700):
        for each in both:
            each.add(train[start : start + 700], names[start : start + 700])
    metrics = Metrics(strict=True)
    memorisation(metrics, *both)
    assert metrics.flat["nearest/searched"] == len(train)
    return metrics.flat


def test_a_copier_of_mirror_images_is_found_where_these_were_trained_on() -> None:
    rng = np.random.default_rng(0)
    # Each region of one colour: its mean is exact.
    regions = rng.integers(0, 256, (60, TIMES, REGIONS, REGIONS, 3), np.uint8)
    videos = regions.repeat(2, 1).repeat(8, 2).repeat(8, 3)
    train, images = thumbnails(videos), thumbnails(np.flip(videos, 3).copy())
    assert (mirrored(train) == images).all() and (mirrored(images) == train).all()
    assert (images != train).any()
    for mirror in (False, True):
        search = Search(np.concatenate([images[:9], train[9:12]]), mirror)
        search.add(train[:30], refs(60)[:30])
        search.add(train[30:], refs(60)[30:])
        is_copy_N = search.distance_N == 0
        assert is_copy_N.tolist() == [mirror] * 9 + [True] * 3
        if mirror:
            assert search.nearest == refs(60)[:12]


@pytest.mark.parametrize("count", [60, 1_000, 20_000])
def test_a_copier_is_found_and_a_generator_is_not(count: int) -> None:
    rng = np.random.default_rng(count)
    directions = world(rng)
    train, held_out = clips(rng, directions, count), clips(rng, directions, 256)
    copied = blurred(rng, train[rng.integers(0, count, 256)])
    found = judged(copied, held_out, train)
    assert found["nearest/ratio"] < 0.6 and found["nearest/close"] > 0.9
    fresh = blurred(rng, clips(rng, directions, 256))
    fair = judged(fresh, held_out, train)
    assert 0.9 < fair["nearest/ratio"] < 1.15 and fair["nearest/close"] < 0.12
    # A tenth of copies shows in the share, not in the median.
    some = judged(np.concatenate([copied[:26], fresh[:230]]), held_out, train)
    assert some["nearest/close"] > 0.1 and some["nearest/ratio"] > 0.85


def test_a_dull_generator_is_not_accused() -> None:
    """Samples near the mean of the data are near training clips, but near to many of them."""
    rng = np.random.default_rng(1)
    directions = world(rng)
    train, held_out = clips(rng, directions, 5_000), clips(rng, directions, 256)
    found = judged(clips(rng, 0.5 * directions, 256), held_out, train)
    assert found["nearest/ratio"] > 0.9 and found["nearest/close"] < 0.1


def test_the_nearest_is_that_of_all_parts() -> None:
    rng = np.random.default_rng(2)
    x_ND, y_MD = (rng.integers(0, 256, (n, WIDTH)).astype(np.uint8) for n in (5, 90))
    x_ND[3] = y_MD[77]
    search, names = Search(x_ND), refs(90)
    for start in range(0, 90, 13):
        search.add(y_MD[start : start + 13], names[start : start + 13])
    apart = np.sqrt(((x_ND[:, None].astype(float) - y_MD) ** 2).mean(2))
    assert search.nearest == [names[i] for i in apart.argmin(1)]
    np.testing.assert_allclose(search.distance_N, apart.min(1), atol=1e-6)
    expected = apart.min(1) / np.sort(apart, 1)[:, NEIGHBOURS - 1]
    np.testing.assert_allclose(search.relative_N, expected, atol=1e-8)
    assert search.relative_N[3] == 0


def test_equal_clips_tell_nothing() -> None:
    same = np.full((NEIGHBOURS + 5, WIDTH), 7, np.uint8)
    search = Search(same[:4])
    search.add(same, refs(len(same)))
    assert search.relative_N.tolist() == [1.0] * 4


def test_few_training_clips_are_refused() -> None:
    rows = np.zeros((NEIGHBOURS, WIDTH), np.uint8)
    search = Search(rows[:2])
    search.add(rows, refs(NEIGHBOURS))
    with pytest.raises(UserError, match=f"only {NEIGHBOURS} training clips: more than"):
        memorisation(Metrics(strict=True), search, None)


def test_memory_does_not_grow_with_the_training_clips() -> None:
    rng = np.random.default_rng(3)
    part = rng.integers(0, 256, (500, WIDTH)).astype(np.uint8)

    def peak(parts: int) -> int:
        search, names = Search(part[:100]), refs(500)
        tracemalloc.start()
        for _ in range(parts):
            search.add(part, names)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(40) < 1.2 * peak(2)


def test_thumbnails_are_means_of_regions() -> None:
    video = np.zeros((2, 16, 32, 32, 3), np.uint8)
    video[1, 4:8, 8:16, 24:32, 2] = 200
    found = thumbnails(video).reshape(2, 3, TIMES, REGIONS, REGIONS)
    assert not found[0].any()
    assert found[1, 2, 1, 1, 3] == 200 and found.astype(int).sum() == 200
