"""Real clips are drawn from `videos.parquet`; their rates are checked before sampling."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.evaluation.batches import Batch, ClipRef
from pipelines.evaluation.detectors import DetectorFile
from pipelines.evaluation.features import Features, FeatureSpec
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.real_clips import (
    Drawn,
    OtherClip,
    RealClips,
    check_rates,
    draw,
    draw_clips,
    draw_real,
    extract_real_clips,
    floor_like,
    matched,
)
from pipelines.evaluation.settings import Evaluate
from pipelines.evaluation.statistics import Statistics
from pipelines.io.markers import Marker
from vqvdm.errors import UserError
from vqvdm.metrics import frechet_distance

WIDTH = 64


def real(fps: list[float], labels: list[int] | None = None, spread: float = 1.0) -> RealClips:
    count = len(fps)
    summary = Statistics("real clips", count)
    rows = spread * np.random.default_rng(0).standard_normal((count, WIDTH))
    summary.add({"features": rows}, np.arange(count))
    index_N = np.array(labels or [0] * count)
    return RealClips([None] * count, summary, summary, index_N, np.array(fps), [], [], None)  # type: ignore


def test_rates_that_the_model_was_not_trained_at() -> None:
    cure = r"have 25 frames .* not comparable; pass --fps .* common rates only, such as --fps 8$"
    with pytest.raises(UserError, match=cure):
        check_rates(Evaluate(), {"fps": [8.0, 16.0]}, real([8.0, 25.0]))
    with pytest.raises(UserError, match="; cut clips at its rates"):
        check_rates(Evaluate(), {"fps": [8.0, 16.0]}, real([25.0]))
    check_rates(Evaluate(), {"fps": [29.97, 25.0]}, real([30000 / 1001, 25.0]))
    check_rates(Evaluate(fps="25"), {"fps": [8.0, 16.0]}, real([25.0]))


def test_a_model_whose_index_lists_a_part_of_its_rates() -> None:
    """What lies among them may be one of the others."""
    bundle = {"fps": [8.0, 30.0], "rate_count": 5000}
    check_rates(Evaluate(), bundle, real([8.0, 12.3, 29.999]))
    with pytest.raises(UserError, match=r"have 31 frames .* at 8, 30: they"):
        check_rates(Evaluate(), bundle, real([12.3, 31.0]))


CLIPS = {"long": 90, "mid": 9, "short": 1, "none": 0}


ROWS: list[dict[str, Any]] = [{"id": name, "clips": count} for name, count in CLIPS.items()]


MARKERS = [Marker("train-0", "0", 0, ["k"], list(CLIPS), "spec", "made")]


def test_by_clips_long_videos_weigh_more() -> None:
    refs = draw(MARKERS, ROWS, "clips", 50, seed=0)
    assert len(set(refs)) == 50
    assert Counter(ref.source for ref in refs)["long"] > 40
    assert {ref.ordinal for ref in refs} < set(range(90))


def test_by_videos_each_gives_one() -> None:
    refs = draw(MARKERS, ROWS, "videos", 50, seed=0)
    assert sorted(ref.source for ref in refs) == ["long", "mid", "short"]
    assert any(draw(MARKERS, ROWS, "videos", 50, seed) != refs for seed in range(1, 4))


def test_the_order_of_rows_is_irrelevant() -> None:
    assert draw(MARKERS, ROWS[::-1], "clips", 9, 1) == draw(MARKERS, ROWS, "clips", 9, 1)


def test_the_start_of_a_longer_draw_is_the_shorter_one() -> None:
    assert draw(MARKERS, ROWS, "clips", 20, 1)[:9] == draw(MARKERS, ROWS, "clips", 9, 1)


def test_candidates_for_the_floor_have_the_classes_of_the_real_clips() -> None:
    rows = [{"id": f"{label}{i}", "clips": 4, "label": label} for label in "ab" for i in range(40)]
    markers = [Marker("val-0", "0", 0, ["k"], [row["id"] for row in rows], "spec", "made")]
    index = {"spec": {"rates": [8.0, 16.0]}}
    inputs = Inputs(Evaluate(num_real=60), {}, index, "", "", False, None, None, None)
    real, others = draw_real(inputs, markers, rows)
    assert len(real) == 60 and not set(real) & set(others)
    labels = [Counter(ref.source[0] for ref in refs) for refs in (real, others)]
    assert labels[1] == {label: 2 * count for label, count in labels[0].items()}
    inputs = Inputs(
        Evaluate(num_real=60), {}, {"spec": {"rates": [None]}}, "", "", False, None, None, None
    )
    assert Counter(ref.source[0] for ref in draw_real(inputs, markers, rows)[1]) == labels[0]
    # Where one of three rates is left out, there are two to match.
    spec = {"spec": {"rates": [8.0, 16.0, 24.0]}}
    config = Evaluate(num_real=40, fps="8,16")
    inputs = Inputs(config, {}, spec, "", "", False, None, None, None)
    among = frozenset(ref for ref in draw(markers, rows, "clips", None, 0) if ref.ordinal < 3)
    real, others = draw_real(inputs, markers, rows, among)
    assert (len(real), len(others)) == (40, 80) and {*real, *others} < among


def test_the_floor_has_the_proportions_of_the_real_clips() -> None:
    wanted = ["a"] * 30 + ["b"] * 10
    there = ["b", "a"] * 100
    found = matched(wanted, there)
    assert Counter(there[i] for i in found) == {"a": 30, "b": 10}
    # With fewer of a class the whole is smaller, but for one in twenty.
    few = Counter(["b", "a"][i % 2] for i in matched(wanted, ["b", "a"] * 15))
    assert few == {"a": 15, "b": 6}  # 21 of 22, where 16 and 6 would be due
    assert len(matched(["a"] * 39 + ["c"], ["a"] * 50)) == 39
    assert matched(wanted, ["c"] * 50) == []


@pytest.mark.parametrize(("by_rate", "slow"), [(True, 10), (False, 20)])
def test_rates_are_matched_where_clips_were_cut_at_several(by_rate: bool, slow: int) -> None:
    rng = np.random.default_rng(0)
    others = [OtherClip(0, 8.0 if i < 40 else 16.0, rng.standard_normal(4)) for i in range(80)]
    wanted = [(0, 8.0)] * 10 + [(0, 16.0)] * 10 if by_rate else [(0, 0.0)] * 20
    floor = floor_like(wanted, others, by_rate, seed=0)
    first = np.mean([clip.features_D for clip in others[:slow]], 0) * slow
    second = np.mean([clip.features_D for clip in others[40:50]], 0) * 10 if by_rate else 0
    assert floor.count == 20 and floor.gaussian
    np.testing.assert_allclose(floor.gaussian.mean_D, (first + second) / 20)


def test_a_floor_of_other_proportions_would_lie_too_high() -> None:
    """300 clips of ten classes far apart: what samples, which copy proportions, are held to."""
    from pipelines.evaluation.estimates import estimate
    from vqvdm.metrics import frechet_distance

    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((10, 6))

    def clips(classes: np.ndarray) -> np.ndarray:
        return centres[classes] + rng.standard_normal((len(classes), 6))

    fair, unfair, samples = [], [], []
    for _ in range(40):
        classes, pool = rng.integers(0, 10, 300), rng.integers(0, 10, 600)
        real, others = clips(classes), clips(pool)
        chosen = matched(classes.tolist(), pool.tolist())
        fair.append(frechet_distance(real, others[chosen]))
        unfair.append(frechet_distance(real, others[:300]))
        samples.append(frechet_distance(real, clips(classes)))
    floor, perfect = estimate(fair), estimate(samples)
    assert floor.interval and perfect.interval
    assert abs(floor.mean - perfect.mean) < floor.interval + perfect.interval
    assert np.mean(unfair) > 1.5 * perfect.mean


def test_a_classifier_trains_on_no_video_that_it_judges() -> None:
    rows = [{"id": f"{label}{i}", "clips": 4, "label": label} for label in "ab" for i in range(40)]
    for row in rows:
        row["uri"] = f"/{row['id']}.mp4"
    ids = [row["id"] for row in rows]
    markers = [
        Marker("train-0", "0", 0, ["k"], ids[:60], "spec", "made"),
        Marker("val-0", "0", 0, ["k"], ids[60:], "spec", "made"),
    ]
    index = {"spec": {"rates": [None]}}
    config = Evaluate(protocol="published", num_samples=30)
    inputs = Inputs(config, {}, index, "", "", False, None, None, None)
    refs, others = draw_real(inputs, markers, rows)
    judged = {ref.source for ref in refs}
    assert len(judged) == 30 and judged <= set(ids[:60])
    trained = Drawn(rows, refs, others, []).unjudged(markers, 1000, 0)
    assert {ref.source for ref in trained} == set(ids[:60]) - judged
    assert len(trained) == 4 * 30
    val = [ref for ref in draw(markers[1:], rows, "clips", 30, 0)]
    assert len(Drawn(rows, val, [], []).unjudged(markers, 1000, 0)) == 4 * 60
    for row in rows:  # Four parts or spans of each file.
        row["uri"] = f"/{row['label']}{int(row['id'][1:]) // 4}.mp4"
    file_of = {row["id"]: row["uri"] for row in rows}
    trained = Drawn(rows, refs[:5], others, []).unjudged(markers, 1000, 0)
    files, judged_files = ({file_of[ref.source] for ref in found} for found in (trained, refs[:5]))
    assert files and judged_files and not files & judged_files
    assert len(trained) == 4 * (60 - 4 * len(judged_files))


@pytest.mark.parametrize("seed", range(5))
def test_a_classifier_sees_every_class_however_rare_or_many(seed: int) -> None:
    def trained(clips_of: dict[str, int], count: int) -> Counter[str]:
        rows = [
            {"id": f"{label} {i}", "uri": f"/{label} {i}", "clips": 2, "label": label}
            for label, clips in clips_of.items()
            for i in range(clips // 2)
        ]
        markers = [Marker("train-0", "0", 0, ["k"], [row["id"] for row in rows], "spec", "made")]
        refs = Drawn(rows, [], [], []).unjudged(markers, count, seed)
        assert len(set(refs)) == len(refs)
        return Counter(ref.source.split()[0] for ref in refs)

    assert trained({"rare": 40, "usual": 20_000}, 1500) == {"rare": 40, "usual": 1460}
    shares = trained({f"class{i}": 10 for i in range(1000)}, 1500)
    assert len(shares) == 1000 and Counter(shares.values()) == {1: 500, 2: 500}
    assert set(trained({f"class{i}": 10 for i in range(30)}, 20).values()) == {1}


def test_a_classifier_of_few_clips_trains_as_before() -> None:
    """All of them, in the same order, so that it has the same weights."""
    ids = [f"{label}{i}" for label in "ab" for i in range(40)]
    rows = [{"id": id, "uri": id, "clips": 4, "label": id[0]} for id in ids]
    markers = [Marker("train-0", "0", 0, ["k"], [row["id"] for row in rows], "spec", "made")]
    refs = Drawn(rows, [], [], []).unjudged(markers, 1500, 3)
    assert refs == draw(markers, rows, "clips", 1500, 3)


class Extracted:
    """In place of workers: clips whose features say how fast things move in them, and no more."""

    def __init__(self, fps_of: Callable[[ClipRef], float]) -> None:
        self.fps_of = fps_of
        self.groups: dict[str, list[ClipRef]] = {}

    def __call__(
        self, inputs: Inputs, spec: FeatureSpec, batches: Sequence[Batch]
    ) -> Iterator[tuple[Batch, Features]]:
        for batch in batches:
            self.groups.setdefault(batch.kind, []).extend(batch.refs)
            fps_N = np.array([self.fps_of(ref) for ref in batch.refs])
            found: Features = {"fps": fps_N}
            if batch.kind != "rates":
                seed = int(batch.key[:8], 16)
                noise_ND = np.random.default_rng(seed).standard_normal((len(fps_N), 4))
                found |= {"features": noise_ND - 0.5 * fps_N[:, None]}
                found |= {"class_index": np.zeros(len(fps_N), int)}
                found |= {"thumbnails": np.zeros((len(fps_N), 3), np.uint8)}
            yield batch, found


NTSC = 24000 / 1001


def mixed(
    tmp_path: Path, extracted: Extracted, cut_at: list[float | None], **settings: Any
) -> tuple[Drawn, RealClips]:
    """Real clips of 60 videos of four clips each; the same in either split."""
    ids = [f"{split}{i}" for split in ("train", "val") for i in range(60)]
    markers = [
        Marker(f"{split}-0", split, 0, ["k"], [id for id in ids if id.startswith(split)], "s", "m")
        for split in ("train", "val")
    ]
    rows = pa.table({"id": ids, "uri": ids, "clips": [4] * 120, "label": ["a"] * 120})
    pq.write_table(rows, tmp_path / "videos.parquet")
    index = {"spec": {"rates": cut_at}, "classes": ["a"], "fingerprint": "clips"}
    detector = DetectorFile("builtin", None, "0")
    config = Evaluate(root=str(tmp_path), **settings)
    inputs = Inputs(config, {"fps": [8.0, 16.0]}, index, "", "", False, detector, None, None)
    drawn = draw_clips(inputs, markers, extracted)
    spec = FeatureSpec(detector, None, None, None, False, False, True)
    return drawn, extract_real_clips(inputs, spec, markers, drawn, extracted)


def at_both(ref: ClipRef) -> float:
    return 8.0 if ref.ordinal < 2 else 16.0


@pytest.mark.parametrize("by", ["clips", "videos"])
def test_only_clips_of_the_rates_that_are_asked_for_are_compared_with(
    tmp_path: Path, by: str
) -> None:
    """Samples at 8 fps once stood beside real clips at 8 and at 16: a perfect model seemed bad."""
    extracted = Extracted(at_both)
    asked = {"fps": "8", "num_real": 30, "real_draw": by}
    drawn, real = mixed(tmp_path, extracted, [8.0, 16.0], **asked)
    assert len(drawn.refs) == real.statistics.count == 30
    for group in ("real", "floor", "held-out"):
        clips = extracted.groups[group]
        assert {extracted.fps_of(ref) for ref in clips} == {8.0}, group
    assert real.floor.count == 30 and real.statistics.rates == real.only_at == [8.0]
    if by == "videos":
        assert len({ref.source for ref in drawn.refs}) == 30
    assert real.videos == 60
    # A copy may be of any rate.
    assert {extracted.fps_of(ref) for ref in extracted.groups["train"]} == {8.0, 16.0}
    # What a perfect model makes at 8 fps.
    perfect_ND = np.random.default_rng(7).standard_normal((4000, 4)) - 4.0
    _, every = mixed(tmp_path, Extracted(at_both), [8.0, 16.0], num_real=30)
    assert every.statistics.rates == [8.0, 16.0] and every.only_at is None
    distances = [
        frechet_distance(np.concatenate(each.statistics.row_parts), perfect_ND)
        for each in (real, every)
    ]
    assert distances[0] < 1 < 10 < distances[1]


def test_a_rate_may_be_typed_as_it_is_printed(tmp_path: Path) -> None:
    extracted = Extracted(lambda ref: NTSC if ref.source < "val30" else 30000 / 1001)
    with pytest.raises(UserError, match=r"--fps 12: real clips have 23\.976, 29\.97 frames a sec"):
        mixed(tmp_path, extracted, [None], fps="12", num_real=20)
    for typed, exact in (("29.97", 30000 / 1001), ("23.976", NTSC)):
        _, real = mixed(tmp_path, extracted, [None], fps=typed, num_real=20)
        assert real.statistics.count == 20 and real.statistics.rates == real.only_at == [exact]
    _, real = mixed(tmp_path, extracted, [None], fps="23.976,29.97", num_real=60)
    assert len(real.statistics.rates) == 2 and real.only_at is None


def test_without_rates_no_shard_is_read_for_them(tmp_path: Path) -> None:
    extracted = Extracted(at_both)
    assert mixed(tmp_path, extracted, [8.0, 16.0], num_real=30)[0].among is None
    assert "rates" not in extracted.groups


def test_videos_without_a_clip_of_a_rate_do_not_count(tmp_path: Path) -> None:
    extracted = Extracted(lambda ref: 8.0 if ref.source.endswith("7") else 16.0)
    _, real = mixed(tmp_path, extracted, [8.0, 16.0], fps="8", num_real=30)
    assert real.videos == 6 and real.statistics.count == 24
