"""The places below a root, and which job to run if a part is missing."""

from pathlib import Path

import pytest

from pipelines.io import storage, workspace
from pipelines.io.workspace import Workspace
from vqvdm.errors import UserError


@pytest.mark.parametrize("root", ["/data/run", "s3://bucket/run"])
def test_every_place_lies_below_the_root(root: str) -> None:
    places = Workspace(root)
    assert places.videos == f"{root}/videos"
    assert places.manifest == f"{root}/videos.parquet"
    assert places.clips == f"{root}/clips"
    assert places.vqgan("base") == f"{root}/vqgan/base"
    assert places.latents("base") == f"{root}/latents/base"
    assert places.ldm("base") == f"{root}/ldm/base"
    assert places.samples("night") == f"{root}/samples/night"
    assert places.eval("base") == f"{root}/eval/base"


@pytest.mark.parametrize("name", ["", ".", "..", "base/v2", "/etc", "../other"])
def test_a_name_is_that_of_one_folder(name: str) -> None:
    """Whoever replaces `base` would delete `base/v2` with it."""
    places = Workspace("/data/run")
    for place in ("vqgan", "latents", "ldm", "samples", "detector", "eval"):
        with pytest.raises(UserError, match="is no name: it becomes a folder in /data/run/"):
            getattr(places, place)(name)


@pytest.mark.parametrize("base", ["/data", "s3://bucket"])
def test_videos_and_what_jobs_make_are_kept_apart(base: str) -> None:
    places = Workspace(f"{base}/run")
    assert places.root_below(f"{base}/videos") == places.root_below(f"{base}/run/videos") == ""
    assert places.root_below(f"{base}/ru") == places.root_below(f"{base}/run-2") == ""
    assert places.root_below(base) == places.root_below(f"{base}/") == f"{base}/run"
    with pytest.raises(UserError, match="--videos and --root are the same"):
        places.root_below(f"{base}/run/")
    for name in ("clips", "clips/cat", "samples", "latents/base", "eval"):
        with pytest.raises(UserError, match=rf"--videos {base}/run/{name} lies in .* jobs fill"):
            places.root_below(f"{base}/run/{name}")


def test_links_lead_to_where_videos_lie(tmp_path: Path) -> None:
    (tmp_path / "disk" / "run" / "clips").mkdir(parents=True)
    (tmp_path / "videos").symlink_to(tmp_path / "disk")
    (tmp_path / "cut").symlink_to(tmp_path / "disk" / "run" / "clips")
    places = Workspace(f"{tmp_path}/disk/run")
    assert places.root_below(f"{tmp_path}/videos") == f"{tmp_path}/videos/run"
    with pytest.raises(UserError, match=r"lies in .*/disk/run/clips, which jobs fill"):
        places.root_below(f"{tmp_path}/cut")
    assert places.root_below("s3://bucket/disk/run/clips") == ""


def test_what_is_published_is_read(tmp_path: Path) -> None:
    folder = Workspace(str(tmp_path)).clips
    assert workspace.published(folder, "index.json") is None
    storage.publish_json({"classes": ["a"]}, f"{folder}/index.json")
    assert workspace.published(folder, "index.json") == {"classes": ["a"]}
    assert workspace.require(folder, "index.json", "shard_videos") == {"classes": ["a"]}


def test_a_missing_part_names_its_job(tmp_path: Path) -> None:
    folder = Workspace(str(tmp_path)).vqgan("base")
    with pytest.raises(UserError, match=r"jobs/train_vqgan\.py") as caught:
        workspace.require(folder, "config.json", "train_vqgan")
    assert f"{folder}/config.json" in str(caught.value)


@pytest.mark.parametrize("garbage", [b"", b'{"classes": ["a', b"\xff\xfe"])
def test_a_part_that_is_not_json_counts_as_missing(tmp_path: Path, garbage: bytes) -> None:
    folder = Workspace(str(tmp_path)).clips
    storage.publish_bytes(garbage, f"{folder}/index.json")
    assert workspace.published(folder, "index.json") is None
    with pytest.raises(UserError, match=r"index\.json is not JSON.*jobs/shard_videos\.py"):
        workspace.require(folder, "index.json", "shard_videos")


def test_a_root_that_is_a_file_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    with pytest.raises(UserError, match="root"):
        workspace.require(Workspace(str(tmp_path / "root")).clips, "index.json", "shard_videos")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shrot", r"is missing: did you mean 'short'\? There: base, short\. Or run jobs/train_ldm"),
        ("night", r"is missing: There: base, short\. Or run jobs/train_ldm"),
    ],
)
def test_what_is_there_is_named_instead(name: str, words: str, tmp_path: Path) -> None:
    space = Workspace(str(tmp_path))
    for each in ("short", "base"):
        storage.publish_json({}, f"{space.ldm(each)}/config.json")
        storage.publish_json({}, f"{space.ldm(each)}/vqgan/config.json")
    storage.publish_json({}, f"{space.ldm('unfinished')}/checkpoints/step-1.json")
    with pytest.raises(UserError, match=words):
        workspace.require(space.ldm(name), "config.json", "train_ldm")
