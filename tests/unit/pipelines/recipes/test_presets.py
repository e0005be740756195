"""The named recipes: every one is complete and its parts fit together."""

from dataclasses import fields, replace
from typing import cast

import pytest

from pipelines.demo.settings import VAL_LIST, DemoVideos
from pipelines.recipes import presets
from pipelines.recipes.presets import PRESETS, Preset
from pipelines.sampling.settings import Sample
from pipelines.sharding.settings import ShardVideos
from pipelines.training.settings import PIXEL_SPACE, DistillLDM, TrainLDM, TrainVQGAN
from vqvdm.errors import UserError

JOBS = [job.name for job in fields(Preset)]


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_job_has_settings(preset: str, job: str) -> None:
    config = presets.settings(preset, job)
    assert type(config).__name__.lower() == job.replace("_", "")
    assert config.root == f"runs/{preset}"
    if check := getattr(config, "check", None):
        check()


@pytest.mark.parametrize("preset", PRESETS)
def test_clips_divide_into_latents(preset: str) -> None:
    clips = cast(ShardVideos, presets.settings(preset, "shard_videos"))
    small = preset in ("demo", "own-small", "games-small", "vdm")
    assert (clips.frames, clips.size) == (16, 64 if small else 128)
    model = cast(TrainVQGAN, presets.settings(preset, "train_vqgan")).model
    assert len(model.blocks) == len(model.widths) == len(model.depths)
    assert model.compression == (4, 8, 8)
    shape = model.latent_shape(clips.frames, clips.size, clips.size)
    assert shape == (model.latent_channels, 4, clips.size // 8, clips.size // 8)
    denoiser = cast(TrainLDM, presets.settings(preset, "train_ldm")).model
    assert shape[-1] % 2 ** (len(denoiser.multipliers) - 1) == 0


def test_the_pixel_space_preset_halves_pixels() -> None:
    config = cast(TrainLDM, presets.settings("vdm", "train_ldm"))
    assert config.vqgan == PIXEL_SPACE
    config.model.check(64, 64)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_student_has_the_guidance_that_its_teacher_is_sampled_with(preset: str) -> None:
    student = cast(DistillLDM, presets.settings(preset, "distill_ldm"))
    sample = cast(Sample, presets.settings(preset, "sample"))
    assert (student.guidance, student.guidance_interval) == (
        sample.guidance,
        sample.guidance_interval,
    )


def test_an_unlabelled_preset_asks_for_no_labels() -> None:
    for preset in ("sky", "sky-paper"):
        clips = cast(ShardVideos, presets.settings(preset, "shard_videos"))
        assert (clips.labels, clips.splits, clips.frames_fps) == ("none", "folders", 25.0)


@pytest.mark.parametrize("preset", ["games", "games-small"])
def test_games_are_cut_as_they_are_written(preset: str) -> None:
    videos = cast(DemoVideos, presets.settings(preset, "demo_videos"))
    clips = cast(ShardVideos, presets.settings(preset, "shard_videos"))
    assert (videos.kind, videos.format.fps, videos.format.duration_s) == ("games", 30.0, 10.0)
    assert videos.format.count == (2048 if preset == "games" else 512)
    assert clips.rates == [15.0, 30.0]
    assert clips.val_list == VAL_LIST and clips.videos_uri == videos.videos_uri
    assert cast(Sample, presets.settings(preset, "sample")).fps in clips.rates


def test_the_papers_recipes_differ() -> None:
    for preset in ("ucf101", "sky"):
        for job, same in (("shard_videos", True), ("train_vqgan", False), ("train_ldm", False)):
            ours, theirs = (presets.settings(name, job) for name in (preset, f"{preset}-paper"))
            assert (ours.recipe() == theirs.recipe()) == same


@pytest.mark.parametrize("preset", ["ucf101-paper", "sky-paper"])
def test_the_papers_tokenizer_has_its_three_losses(preset: str) -> None:
    config = cast(TrainVQGAN, presets.settings(preset, "train_vqgan"))
    weights = config.loss
    assert min(weights.l1, weights.vq, weights.adversarial) > 0
    assert weights.l2 == weights.lecam == weights.feature_matching == 0
    assert config.perceptual is None and not config.discriminator.image


@pytest.mark.parametrize("preset", ["ucf101", "sky", "games", "ucf101-paper", "sky-paper"])
def test_the_discriminators_judge_most_of_a_large_training(preset: str) -> None:
    config = cast(TrainVQGAN, presets.settings(preset, "train_vqgan"))
    assert config.loss.adversarial_start == 0.05 and config.discriminator_tied
    assert (config.discriminator.width, config.discriminator.stride) == (64, 2)


@pytest.mark.parametrize("preset", ["own", "own-small"])
def test_the_steps_for_ones_own_videos_follow_their_number(preset: str) -> None:
    vqgan = cast(TrainVQGAN, presets.settings(preset, "train_vqgan"))
    ldm = cast(TrainLDM, presets.settings(preset, "train_ldm"))
    for config in (vqgan, ldm):
        few, some, many = (config.for_clips(count).steps for count in (200, 800, 20_000))
        assert few == config.steps_between[0] < some < many == config.steps_between[1]
        assert replace(config, steps=7).for_clips(200).steps == 7
        assert config.for_clips(200).recipe() == replace(config, steps=few, epochs=1.0).recipe()


def test_under_moves_every_job() -> None:
    moved = presets.demo().under("s3://bucket/a")
    assert {getattr(moved, job).root for job in JOBS} == {"s3://bucket/a"}
    assert moved.train_ldm.recipe() == presets.demo().train_ldm.recipe()


@pytest.mark.parametrize(
    ("name", "near"), [("dmeo", "demo"), ("UCF101", "ucf101"), ("skye", "sky")]
)
def test_the_nearest_name_is_suggested(name: str, near: str) -> None:
    with pytest.raises(UserError, match=f"did you mean '{near}'"):
        presets.settings(name, "sample")


def test_all_names_are_listed() -> None:
    with pytest.raises(UserError) as caught:
        presets.settings("zzzz", "sample")
    assert "did you mean" not in str(caught.value)
    assert all(name in str(caught.value) for name in PRESETS)
