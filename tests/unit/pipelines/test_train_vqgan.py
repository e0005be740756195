"""What stage one reads of a root."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import train_vqgan as page
from pipelines.io import storage
from pipelines.io.markers import content_fingerprint
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.settings import TrainInflated, TrainVQGAN
from pipelines.training.stage import Stage
from pipelines.training.world import World
from tests.image_autoencoders import write_autoencoder
from tests.small_shards import SAMPLES, write_shard
from vqvdm.errors import UserError
from vqvdm.tokenizer.discriminator import DiscriminatorConfig
from vqvdm.tokenizer.inflated import Inflated


def publish(root: Path, frames: int = 16) -> None:
    markers = [write_shard(root / "clips", list(SAMPLES))]
    assert markers[0].details
    index = {
        "spec": {"frames": frames, "size": 64},
        "spec_hash": "",
        "classes": [],
        "shards": [marker.name for marker in markers],
        "fingerprint": content_fingerprint(markers),
    }
    storage.publish_json(index, f"{root}/clips/index.json")


def test_workers_get_no_account_of_each_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path)
    stages: list[Stage] = []
    monkeypatch.setattr(page, "run_stage", lambda stage: (stages.append(stage), "done")[1])
    assert page.train_vqgan(TrainVQGAN(root=str(tmp_path))) == "done"
    [marker] = stages[0].data.markers
    assert marker.keys == sorted(SAMPLES) and marker.details == {}


def test_an_image_autoencoder_shapes_the_net(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path)
    stages: list[Stage] = []
    monkeypatch.setattr(page, "run_stage", lambda stage: (stages.append(stage), "done")[1])
    image = str(write_autoencoder(tmp_path / "image"))
    config = TrainVQGAN(root=str(tmp_path), init_from=image)
    assert page.train_vqgan(config) == "done"
    [stage] = stages
    assert isinstance(stage.config, TrainInflated) and stage.config.preset == config.preset
    assert "initial weights" in stage.inputs
    assert "16 latent channels at 1/4 of the frames and 1/2 of height" in capsys.readouterr().out
    method = stage.method(stage.config, World())
    assert isinstance(method, VQGANMethod) and isinstance(method.vqgan, Inflated)
    with pytest.raises(UserError, match="16 frames do not divide by 3; use 15 or 18"):
        page.train_vqgan(replace(config, group=3))
    with pytest.raises(UserError, match="--group 3 is for a tokenizer out of an image autoencoder"):
        page.train_vqgan(replace(config, group=3, init_from=None))


def test_clips_too_small_for_the_discriminators_are_refused(tmp_path: Path) -> None:
    publish(tmp_path, frames=4)
    config = TrainVQGAN(root=str(tmp_path), discriminator=DiscriminatorConfig(levels=4))
    with pytest.raises(UserError, match="clips of 4 frames of 64x64 are too small"):
        page.train_vqgan(config)
