"""`own` takes the recipe that suits the clips, or the cluster that will cut them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cluster.devices import Devices
from pipelines.recipes import cli, own
from pipelines.training.settings import TrainVQGAN

Capture = pytest.CaptureFixture[str]


def parsed(job: str, *arguments: str) -> TrainVQGAN:
    return cli.parse(job, ["own", *arguments])


def has(monkeypatch: pytest.MonkeyPatch, gpus: bool) -> None:
    found = Devices("cuda" if gpus else "cpu")
    monkeypatch.setattr(own, "foresee_devices", lambda request: found)


def cut(root: Path, size: int) -> None:
    (root / "clips").mkdir(parents=True)
    (root / "clips" / "index.json").write_text(json.dumps({"spec": {"size": size}}))


@pytest.mark.parametrize(("gpus", "size", "name"), [(True, 128, "own"), (False, 64, "own-small")])
def test_clips_are_cut_for_what_the_cluster_has(
    gpus: bool,
    size: int,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    tmp_path: Path,
) -> None:
    has(monkeypatch, gpus)
    config = parsed("shard_videos", "--root", str(tmp_path))
    assert (config.size, config.preset) == (size, name)  # type: ignore[attr-defined]
    assert config.root == str(tmp_path)
    line = capsys.readouterr().out
    assert line.startswith(f"own: the recipe '{name}' for a cluster with")
    assert line.count("\n") == 1
    assert parsed("shard_videos", "--size", "96").size == 96  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("size", "name"), [(32, "own-small"), (64, "own-small"), (96, "own"), (256, "own")]
)
def test_the_nets_follow_the_clips(
    size: int, name: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    has(monkeypatch, size < 96)  # the other way about
    cut(tmp_path, size)
    config = parsed("train_vqgan", "--root", str(tmp_path), "--batch-size", "12")
    model = cli.parse("train_vqgan", [name]).model if name != "own" else config.model
    assert config.model == model
    assert (config.preset, config.batch_size, config.root) == (name, 12, str(tmp_path))
    assert capsys.readouterr().out.startswith(
        f"own: the recipe '{name}' for clips of {size}x{size}"
    )


def test_the_place_does_not_depend_on_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, False)
    assert parsed("shard_videos").root == "runs/own"
    assert cli.parse("shard_videos", ["own-small"]).root == "runs/own-small"
