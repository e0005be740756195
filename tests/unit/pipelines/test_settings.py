"""Settings: what is refused, and what counts as the recipe."""

import json
import math
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from pipelines.demo.settings import DemoVideos
from pipelines.evaluation.settings import Evaluate, TrainDetector
from pipelines.inspection.settings import InspectData
from pipelines.io.other_settings import changed
from pipelines.latents.settings import EncodeLatents
from pipelines.recipes.presets import PRESETS, Preset, settings
from pipelines.sampling.settings import Sample
from pipelines.settings import Job
from pipelines.sharding.settings import Filters, Limits, ShardVideos
from pipelines.training.settings import DistillLDM, TrainLDM, TrainVQGAN
from vqvdm.diffusion.objectives import ObjectiveConfig
from vqvdm.diffusion.samplers import SamplingOptions
from vqvdm.diffusion.unet import UNetConfig
from vqvdm.errors import UserError
from vqvdm.ranges import numbers, range_of
from vqvdm.tokenizer.discriminator import DiscriminatorConfig
from vqvdm.tokenizer.inflated import InflatedConfig
from vqvdm.tokenizer.vqgan import VQGANConfig


def test_what_was_made_before_a_setting_came_is_known_again() -> None:
    before = TrainVQGAN().recipe()
    assert "discriminator_tied" not in before and "stride" not in before["discriminator"]
    tied, fine = TrainVQGAN(discriminator_tied=True), DiscriminatorConfig(stride=2)
    assert tied.recipe() == before | {"discriminator_tied": True}
    assert TrainVQGAN(discriminator=fine).recipe()["discriminator"]["stride"] == 2


def test_settings_that_differ_are_named() -> None:
    before = json.loads(json.dumps(TrainVQGAN(steps=1300).recipe()))  # as it is recorded
    assert changed(before, TrainVQGAN(steps=1300).recipe()) == ""
    assert changed(before, TrainVQGAN(steps=250).recipe()) == "steps 1300 → 250"
    tied = TrainVQGAN(steps=1300, discriminator_tied=True, discriminator=DiscriminatorConfig(16))
    width = f"discriminator.width {DiscriminatorConfig().width} → 16"
    assert changed(before, tied.recipe()) == f"{width}, discriminator_tied none → true"
    long = changed({"prompts": ["a red ball"] * 150}, {"prompts": ["a"]})
    assert long.startswith('prompts ["a red ball", ') and long.endswith('… → ["a"]')
    assert len(long) < 100
    many = changed({f"a{i}": i for i in range(7)}, {})
    assert many == "a0 0 → none, a1 1 → none, a2 2 → none, a3 3 → none and 3 more"


JOBS: list[type[Job]] = [
    DemoVideos,
    ShardVideos,
    TrainVQGAN,
    EncodeLatents,
    TrainLDM,
    Sample,
    Evaluate,
    DistillLDM,
    InspectData,
    TrainDetector,
]


@pytest.mark.parametrize(
    ("job", "field", "value"),
    [
        (ShardVideos, "frames", 0),
        (ShardVideos, "size", 0),
        (ShardVideos, "size", 63),
        (ShardVideos, "videos_per_shard", 0),
        (ShardVideos, "stride", 0),
        (ShardVideos, "shard_mb", 0),
        (ShardVideos, "val_fraction", 1.0),
        (ShardVideos, "val_fraction", -0.1),
        (ShardVideos, "val_fraction", float("nan")),
        (ShardVideos, "fps", "fast"),
        (ShardVideos, "limit", -1),
        (ShardVideos, "frames_fps", 0.0),
        (ShardVideos, "timeout_s", 0.0),
        (ShardVideos, "max_memory_gb", float("inf")),
        (ShardVideos, "group_by", "("),
        (TrainVQGAN, "steps", -1),
        (TrainVQGAN, "batch_size", 0),
        (TrainLDM, "log_every", 0),
        (TrainLDM, "validate_every", 0),
        (TrainLDM, "checkpoint_every", 0),
        (Sample, "num_per_class", 0),
        (Sample, "fps", 0.0),
        (Evaluate, "num_samples", 0),
    ],
)
def test_what_cannot_be_is_refused(job: Any, field: str, value: Any) -> None:
    job().check()
    with pytest.raises(UserError, match=f"--{field.replace('_', '-')} "):
        job(**{field: value}).check()


@pytest.mark.parametrize(
    ("job", "field", "value"),
    [
        (Sample, "steps", 0),
        (Evaluate, "steps", 0),
        (Evaluate, "guidance", -1.0),
        (Sample, "guidance", float("nan")),
        (Sample, "guidance", float("inf")),
        (Sample, "guidance_interval", (0.5, 0.5)),
        (Sample, "guidance_interval", (0.0, 1.5)),
    ],
)
def test_impossible_sampling_is_refused(job: Any, field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^(--)?{field.replace('_', '[_-]')} "):
        job(**{field: value}).check()


def _with(config: Any, name: str, value: Any) -> Any:
    """The same with another value of a field by its dotted name; of a tuple, in all places."""
    first, _, rest = name.partition(".")
    now = getattr(config, first)
    if rest:
        value = _with(now, rest, value)
    elif isinstance(now, tuple):
        value = tuple((value,) * len(each) if isinstance(each, tuple) else value for each in now)
    return replace(config, **{first: value})


def _with_every_option(kind: Any) -> Any:
    """Settings in which the numbers that may be absent are there."""
    config = kind()
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        bare = [get_args(part)[0] if get_args(part) else part for part in get_args(hint)]
        if getattr(config, name, 0) is None and {int, float} & set(bare):
            config = replace(config, **{name: 16})
    return config


JOBS_OF_NUMBERS = [*JOBS, lambda: VQGANConfig(decoder_widths=(8, 8), decoder_depths=(1, 1))]
JOBS_OF_NUMBERS += [InflatedConfig, lambda: UNetConfig(joint_attention_from=1), SamplingOptions]


@pytest.mark.parametrize("kind", JOBS_OF_NUMBERS)
def test_every_number_has_a_range_and_is_refused_outside_of_it(kind: Any) -> None:
    config = _with_every_option(kind)
    found = list(numbers(config))
    assert found
    for name, of_type, _ in found:
        allowed = range_of(of_type)
        assert allowed is not None, f"{name} of {type(config).__name__} has no range"
        below = allowed.least if allowed.open_below else allowed.least - 1
        outside = [-1 if allowed.zero else below, -math.inf, math.nan, math.inf]
        if allowed.most < math.inf:
            outside.append(allowed.most if allowed.open_above else allowed.most + 1)
        for value in outside:
            words = name.replace("_", "[_-]").replace(".", r"\.")
            with pytest.raises(UserError, match=f"^(--)?{words} must"):
                _with(config, name, value).check()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_in_range(preset: str) -> None:
    for job in fields(Preset):
        settings(preset, job.name).check()


def test_sampling_options_come_from_the_flags() -> None:
    flags = {"steps": 7, "guidance": 3.0, "sampler": "euler", "guidance_interval": (0.1, 0.8)}
    assert asdict(Sample(**flags).options) == flags
    assert Sample().options == SamplingOptions()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (TrainVQGAN(model=VQGANConfig(quantizer="fsq", levels=(8, 1))), "FSQ levels"),
        (TrainVQGAN(model=VQGANConfig(depths=(1,))), "as many of each"),
        (
            TrainLDM(objective=ObjectiveConfig(class_dropout=1.5)),
            r"--objective.class-dropout must lie in \[0, 1\], not 1.5",
        ),
        (
            TrainLDM(objective=ObjectiveConfig(class_dropout=float("nan"))),
            "--objective.class-dropout must .* not nan",
        ),
        (
            TrainLDM(objective=ObjectiveConfig(name="v", min_snr=0.0)),
            "--objective.min-snr must be above 0",
        ),
    ],
)
def test_impossible_models_are_refused_before_anything_starts(config: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        config.check()


@pytest.mark.parametrize(
    ("config", "flag"),
    [
        (ShardVideos(limits=Limits(max_pixels=0)), "--limits.max-pixels"),
        (ShardVideos(filters=Filters(min_motion=-1.0)), "--filters.min-motion"),
        (ShardVideos(splits="folders", val_list="a.txt"), "--val-list"),
        (ShardVideos(core_hour_price=0.04), "--core-hour-price is for --dry-run"),
        (ShardVideos(core_hour_price=0.0, dry_run=True), "--core-hour-price must be above 0"),
    ],
)
def test_impossible_limits_splits_and_prices(config: ShardVideos, flag: str) -> None:
    with pytest.raises(UserError, match=flag):
        config.check()


def test_a_dry_run_takes_a_price() -> None:
    ShardVideos(core_hour_price=0.04, dry_run=True).check()


def test_a_batch_divides_among_workers() -> None:
    TrainVQGAN(batch_size=6, num_workers=3).check()
    TrainVQGAN(batch_size=7).check()
    with pytest.raises(UserError, match="--batch-size 7"):
        TrainVQGAN(batch_size=7, num_workers=2).check()


@pytest.mark.parametrize(
    ("fps", "rates"),
    [("native", [None]), ("8", [8.0]), ("8,16", [8.0, 16.0]), ("16, 8,16.0", [16.0, 8.0])],
)
def test_rates(fps: str, rates: list[float | None]) -> None:
    assert ShardVideos(fps=fps).rates == rates


@pytest.mark.parametrize("fps", ["", "8,", "0", "8,-1", "native,8", "inf", "nan", "8,nan"])
def test_no_rates(fps: str) -> None:
    with pytest.raises(UserError, match="--fps"):
        _ = ShardVideos(fps=fps).rates


@pytest.mark.parametrize("job", JOBS)
def test_the_recipe_does_not_depend_on_machines(job: type[Job]) -> None:
    config = job()
    elsewhere = replace(config, root="s3://bucket", num_workers=4, overwrite=True, dry_run=True)
    object.__setattr__(elsewhere, "preset", "other")
    assert config.recipe() == elsewhere.recipe()
    assert not {"root", "num_workers", "overwrite", "dry_run", "preset"} & set(config.recipe())
    assert json.loads(json.dumps(config.recipe()))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (ShardVideos(), ShardVideos(videos="/other", strict=True, retry_failed=True), True),
        (ShardVideos(), ShardVideos(timeout_s=1.0, max_memory_gb=1.0), True),
        (ShardVideos(), ShardVideos(limit=8, videos_per_shard=8, shard_mb=8), True),
        (ShardVideos(), ShardVideos(labels="none", val_fraction=0.5, group_by="x"), True),
        (ShardVideos(), ShardVideos(frames=8), False),
        (ShardVideos(), ShardVideos(filters=Filters(min_size=8)), False),
        (ShardVideos(), ShardVideos(limits=Limits(max_pixels=8)), False),
        (TrainLDM(), TrainLDM(name="other", log_every=1, keep=9), True),
        (TrainLDM(), TrainLDM(seed=1), False),
        (TrainLDM(), TrainLDM(model=replace(TrainLDM().model, width=32)), False),
        (Sample(), Sample(output="other"), True),
        (Sample(), Sample(guidance=1.0), False),
    ],
)
def test_the_recipe_is_what_decides_the_result(a: Job, b: Job, same: bool) -> None:
    assert (a.recipe() == b.recipe()) == same


@pytest.mark.parametrize("each", [0.0, -1.0, 1.5, math.inf, math.nan])
def test_parts_of_several_gpus_are_refused(each: float) -> None:
    for config in (Sample(), EncodeLatents(), Evaluate()):
        config.check()
        with pytest.raises(UserError, match="--gpus-per-worker must be"):
            replace(config, gpus_per_worker=each).check()


@pytest.mark.parametrize("job", JOBS)
def test_devices_are_no_part_of_a_recipe(job: type[Job]) -> None:
    names = {"device", "gpus_per_worker", "cpu_workers", "checkpoint_every", "validate_every"}
    assert not names & set(job().recipe())


def test_places_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ShardVideos(root="runs/a").workspace.clips == f"{tmp_path}/runs/a/clips"
    assert ShardVideos(root="s3://bucket/a/").videos_uri == "s3://bucket/a/videos"
    assert ShardVideos(videos="raw/").videos_uri == f"{tmp_path}/raw"


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Job().root = "other"  # type: ignore[misc]
