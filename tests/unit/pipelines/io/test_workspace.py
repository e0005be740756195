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


def test_other_settings_are_refused_by_name() -> None:
    workspace.refuse_other("clips", "abc", "abc")
    with pytest.raises(UserError) as caught:
        workspace.refuse_other("clips", "abc", "def")
    assert str(caught.value) == (
        "clips was filled with other settings, from other input or by an earlier version: pass "
        "--overwrite to replace it, or another --root"
    )
    with pytest.raises(UserError) as caught:
        workspace.refuse_other("samples/a", "abc", "def", "steps 1300 → 250", "--output")
    assert str(caught.value) == (
        "samples/a was filled with other settings (steps 1300 → 250): pass --overwrite to replace "
        "it, or another --output or --root"
    )


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
