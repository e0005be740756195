"""Splits: by folder, list or chance, and groups stay together."""

from pathlib import Path

import pytest

from pipelines.sharding import sources as inputs
from pipelines.sharding.settings import Selection
from tests.input_folders import GROUPS, fill, found, ucf
from vqvdm.errors import UserError


def listed(videos: Path, text: str) -> list[str]:
    """The videos kept for validation by a --val-list of this text."""
    (videos / "val.txt").write_text(text)
    sources = found(str(videos), labels="none", val_list=f"{videos}/val.txt", group_by=GROUPS)
    return sorted(path for path, source in sources.items() if source.split == "val")


def test_groups_never_straddle_a_split(tmp_path: Path) -> None:
    videos = ucf(tmp_path)
    for fraction in (0.1, 0.3, 0.5, 0.8):
        splits: dict[str, set[str]] = {}
        for path, source in found(videos, val_fraction=fraction, group_by=GROUPS).items():
            splits.setdefault(path.rsplit("_", 1)[0], set()).add(source.split)
        assert all(len(split) == 1 for split in splits.values())
        assert set.union(*splits.values()) == {"train", "val"}
    with pytest.raises(UserError, match=r"_g01_c02\.avi of the same group.*--group-by"):
        listed(Path(videos), "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n")


def test_folders_name_the_split_and_then_the_label(tmp_path: Path) -> None:
    paths = ["train/cat/a.mp4", "Validation/cat/b.mp4", "my-test_2/dog/c.mp4"]
    sources = found(fill(tmp_path, *paths), splits="folders")
    assert {p: (s.split, s.label) for p, s in sources.items()} == {
        "train/cat/a.mp4": ("train", "cat"),
        "Validation/cat/b.mp4": ("val", "cat"),
        "my-test_2/dog/c.mp4": ("val", "dog"),
    }
    for stray in ("contest/cat/d.mp4", "train_and_test/cat/d.mp4", "train.mp4"):
        with pytest.raises(UserError, match="--splits folders"):
            found(fill(tmp_path / stray.replace("/", "-"), stray), splits="folders")


def test_the_split_stays_when_a_video_is_added(tmp_path: Path) -> None:
    videos = fill(tmp_path, *(f"{index}.mp4" for index in range(300)))
    before = {
        s.path: s.split for s in inputs.list_sources(videos, Selection("none", val_fraction=0.2))
    }
    fill(tmp_path, "another.mp4")
    after = {
        s.path: s.split for s in inputs.list_sources(videos, Selection("none", val_fraction=0.2))
    }
    assert before == {path: after[path] for path in before} and len(after) == 301
    assert 30 < list(before.values()).count("val") < 90


@pytest.mark.parametrize(
    ("count", "share", "val"), [(2, 1e-9, 1), (9, 0.0, 0), (1, 0.9, 0), (2, 0.9, 1)]
)
def test_both_splits_get_a_video(tmp_path: Path, count: int, share: float, val: int) -> None:
    videos = fill(tmp_path, *(f"{index}.mp4" for index in range(count)))
    splits = [s.split for s in inputs.list_sources(videos, Selection("none", val_fraction=share))]
    assert splits.count("val") == val


def test_the_split_from_a_list(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.mp4", "a/2.mp4")
    # The lists of UCF-101 have the class after the path.
    assert listed(tmp_path, "a/2.mp4 1\n\n") == ["a/2.mp4"]
    with pytest.raises(UserError, match=r"c/unknown\.mp4"):
        listed(tmp_path, "a/2.mp4\nc/unknown.mp4\n")


def test_a_listed_path_may_hold_spaces(tmp_path: Path) -> None:
    fill(tmp_path, "b/my.mp4", "b/my cat.mp4")
    assert listed(tmp_path, "b/my cat.mp4\n") == ["b/my cat.mp4"]


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4")
    with pytest.raises(UserError, match="--val-list"):
        inputs.list_sources(str(tmp_path), Selection("none", val_list="none.txt"))


def test_a_list_may_write_another_case(tmp_path: Path) -> None:
    videos = fill(tmp_path / "videos", "HandstandPushups/v_HandStandPushups_g01_c01.avi", "x/y.avi")
    listing = tmp_path / "list.txt"
    listing.write_text("HandStandPushups/v_HandstandPushups_g01_c01.avi 37\n")
    splits = {path: source.split for path, source in found(videos, val_list=str(listing)).items()}
    assert splits["HandstandPushups/v_HandStandPushups_g01_c01.avi"] == "val"
    assert splits["x/y.avi"] == "train"
    twice = fill(tmp_path / "twice", "A/b.avi", "a/b.avi", "c/d.avi")
    listing.write_text("A/B.avi\n")
    with pytest.raises(UserError, match=r"names A/B\.avi, which is not among the videos"):
        found(twice, val_list=str(listing))
