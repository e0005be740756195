"""The named recipes. `demo` is for a laptop, `own` for a folder of one's own; `games` needs no
download. `own` and `games` need a GPU; `own-small` and `games-small` run on two cores. `ucf101` and
`sky` are this project's best recipe at 16x128x128, `ucf101-small` trains in hours, and the `-paper`
ones follow the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pipelines.demo.settings import VAL_LIST, DemoVideos
from pipelines.evaluation.settings import Evaluate, TrainDetector
from pipelines.inspection.settings import InspectData
from pipelines.latents.settings import EncodeLatents
from pipelines.sampling.settings import Sample
from pipelines.settings import Job
from pipelines.sharding.settings import ShardVideos
from pipelines.training.settings import PIXEL_SPACE, DistillLDM, TrainLDM, TrainVQGAN
from vqvdm.diffusion.objectives import ObjectiveConfig
from vqvdm.diffusion.unet import UNetConfig
from vqvdm.errors import UserError, did_you_mean
from vqvdm.tokenizer.discriminator import DiscriminatorConfig
from vqvdm.tokenizer.losses import LossConfig
from vqvdm.tokenizer.vqgan import VQGANConfig


@dataclass(frozen=True)
class Preset:
    """The settings of every job for one purpose."""

    demo_videos: DemoVideos = field(default_factory=DemoVideos)
    shard_videos: ShardVideos = field(default_factory=ShardVideos)
    inspect_data: InspectData = field(default_factory=InspectData)
    train_vqgan: TrainVQGAN = field(default_factory=TrainVQGAN)
    encode_latents: EncodeLatents = field(default_factory=EncodeLatents)
    train_ldm: TrainLDM = field(default_factory=TrainLDM)
    distill_ldm: DistillLDM = field(default_factory=DistillLDM)
    sample: Sample = field(default_factory=Sample)
    evaluate: Evaluate = field(default_factory=Evaluate)
    train_detector: TrainDetector = field(default_factory=TrainDetector)

    def under(self, root: str) -> Preset:
        """The same, with another root for every job."""
        jobs = {job.name: replace(getattr(self, job.name), root=root) for job in fields(self)}
        return Preset(**jobs)


def demo() -> Preset:
    """16x64x64 clips of moving digits at 8 and 16 fps; minutes on two cores without a GPU.

    Two workers of one thread wait for each other once a step; two threads of one worker would
    wait at every operation.
    """
    return Preset(
        shard_videos=ShardVideos(size=64, fps="8,16"),
        train_vqgan=TrainVQGAN(
            cpu_workers=2,
            steps=800,
            batch_size=4,
            lr=3e-3,
            ema_decay=0.99,
            # bf16 is no faster on nets this narrow, and rounds codes of dark pixels to the same.
            precision="fp32",
            log_every=50,
            validate_every=400,
            checkpoint_every=400,
            # Time is folded last: folded first, moving objects stand still for two frames.
            model=VQGANConfig(blocks=((1, 4, 4), (4, 2, 2)), widths=(24, 96), depths=(1, 1)),
            discriminator=DiscriminatorConfig(width=16),
            loss=LossConfig(adversarial_start=0.75),
        ),
        train_ldm=TrainLDM(
            cpu_workers=2,
            steps=1300,
            batch_size=16,
            lr=2e-3,
            ema_decay=0.99,
            log_every=50,
            validate_every=650,
            checkpoint_every=650,
            model=UNetConfig(width=32, multipliers=(1, 4), depths=(1, 1)),
            objective=ObjectiveConfig(class_dropout=0.2),
        ),
        distill_ldm=DistillLDM(
            cpu_workers=2,
            steps=200,
            batch_size=16,
            lr=1e-3,
            warmup=20,
            ema_decay=0.98,
            log_every=20,
            validate_every=100,
            checkpoint_every=100,
        ),
        sample=Sample(default_steps=12),
        evaluate=Evaluate(default_steps=12, detector_steps=150),
    )


def ucf101_small() -> Preset:
    """UCF-101 with class labels: 16 frames at the videos' own 25 fps, 128x128; some hours of one
    GPU."""
    return Preset(
        shard_videos=ShardVideos(val_list="ucfTrainTestlist/testlist01.txt"),
        train_vqgan=TrainVQGAN(
            steps=200_000,
            batch_size=32,
            lr=2e-4,
            warmup=2_000,
            ema_decay=0.999,
            validate_every=5_000,
            checkpoint_every=5_000,
            log_every=100,
            model=VQGANConfig(
                blocks=((1, 4, 4), (4, 2, 2)),
                widths=(64, 256),
                depths=(1, 2),
                decoder_widths=(80, 320),
                decoder_depths=(2, 3),
                codebook_size=8192,
            ),
            # The size of PatchGAN's, and of those of TATS: 64 to 512 channels, 78 pixels a logit.
            discriminator=DiscriminatorConfig(width=64, levels=4, stride=2),
            discriminator_tied=True,
            loss=LossConfig(adversarial_start=0.05),
        ),
        train_ldm=TrainLDM(
            steps=400_000,
            batch_size=256,
            lr=2e-4,
            warmup=5_000,
            ema_decay=0.9999,
            validate_every=5_000,
            checkpoint_every=5_000,
            log_every=100,
            # Most parameters are at the level with the fewest positions: a quarter of the
            # arithmetic of (128; 1, 2, 4) with two blocks at each level.
            model=UNetConfig(width=64, multipliers=(1, 2, 5), depths=(1, 1, 2), head_width=64),
            objective=ObjectiveConfig(class_dropout=0.1),
        ),
        distill_ldm=DistillLDM(
            steps=50_000,
            batch_size=256,
            lr=1e-4,
            warmup=1_000,
            ema_decay=0.999,
            validate_every=5_000,
            checkpoint_every=5_000,
            log_every=100,
        ),
        sample=Sample(fps=25.0, default_steps=50),
        evaluate=Evaluate(protocol="published", detector="i3d", classifier="c3d", default_steps=50),
        train_detector=TrainDetector(steps=20_000, batch_size=32, size=112),
    ).under("runs/ucf101-small")


def ucf101() -> Preset:
    """The same with a denoiser seven times as large: a day of one GPU, hours of eight."""
    base = ucf101_small()
    ldm = replace(
        base.train_ldm,
        lr=1e-4,
        model=UNetConfig(width=192, multipliers=(1, 2, 4), depths=(2, 2, 2), head_width=64),
    )
    return replace(base, train_ldm=ldm).under("runs/ucf101")


def sky() -> Preset:
    """Sky Time-lapse, unlabelled: as `ucf101` without classes."""
    base = ucf101()
    return replace(
        base,
        shard_videos=ShardVideos(labels="none", frames_fps=25.0, splits="folders"),
        distill_ldm=replace(base.distill_ldm, guidance=1.0),
        sample=replace(base.sample, num_per_class=64, guidance=1.0),
        evaluate=replace(base.evaluate, guidance=1.0, classifier=None),
    ).under("runs/sky")


def games() -> Preset:
    """Sixteen Atari games, 16x128x128 at 15 and 30 fps: the nets of `ucf101-small`, some hours of
    one GPU."""
    base = ucf101_small()
    return replace(
        base,
        demo_videos=DemoVideos(kind="games"),
        shard_videos=ShardVideos(fps="15,30", val_list=VAL_LIST),
        train_vqgan=replace(base.train_vqgan, steps=60_000, warmup=1_000),
        train_ldm=replace(base.train_ldm, steps=60_000, warmup=2_000, ema_decay=0.9995),
        distill_ldm=replace(base.distill_ldm, steps=7_500, warmup=500),
        sample=Sample(fps=30.0, default_steps=50),
        evaluate=Evaluate(default_steps=50),
        train_detector=replace(base.train_detector, steps=5_000),
    ).under("runs/games")


def games_small() -> Preset:
    """The same games, 16x64x64, from a quarter of the videos: an hour of two cores."""
    base = demo()
    return replace(
        base,
        demo_videos=DemoVideos(kind="games", count=512, size=128),
        shard_videos=ShardVideos(size=64, fps="15,30", val_list=VAL_LIST),
        train_vqgan=replace(
            base.train_vqgan,
            steps=4_500,
            ema_decay=0.995,
            validate_every=1_500,
            checkpoint_every=500,
            model=replace(base.train_vqgan.model, widths=(32, 128)),
        ),
        train_ldm=replace(
            base.train_ldm,
            steps=2_800,
            ema_decay=0.995,
            validate_every=1_400,
            checkpoint_every=400,
            model=replace(base.train_ldm.model, width=48),
        ),
        distill_ldm=replace(base.distill_ldm, steps=400),
        sample=Sample(fps=30.0, default_steps=20),
        evaluate=Evaluate(default_steps=20),
    ).under("runs/games-small")


def own() -> Preset:
    """A folder of one's own, natural videos, 16x128x128: an hour of a small GPU, for 200 clips as
    for 20,000. The nets of `ucf101-small`; the discriminators join when pictures have settled."""
    base = ucf101_small()
    rhythm: dict[str, Any] = {"log_every": 50, "validate_every": 500, "checkpoint_every": 500}
    rhythm |= {"steps": 0, "warmup": 300}
    return replace(
        base,
        shard_videos=ShardVideos(fps="8,16"),
        train_vqgan=replace(
            base.train_vqgan,
            **rhythm,
            epochs=60.0,
            steps_between=(4_000, 8_000),
            batch_size=8,
            ema_decay=0.998,
            loss=LossConfig(adversarial_start=0.5),
        ),
        train_ldm=replace(
            base.train_ldm,
            **rhythm,
            epochs=400.0,
            steps_between=(4_000, 16_000),
            batch_size=64,
            ema_decay=0.999,
        ),
        distill_ldm=replace(
            base.distill_ldm,
            **rhythm,
            epochs=40.0,
            steps_between=(500, 4_000),
            batch_size=64,
            ema_decay=0.998,
        ),
        sample=Sample(default_steps=20),
        evaluate=Evaluate(default_steps=20),
        train_detector=replace(base.train_detector, steps=2_000),
    ).under("runs/own")


def own_small() -> Preset:
    """The same at 16x64x64 by the nets of `games-small`: an evening of two cores."""
    base = games_small()
    return replace(
        base,
        demo_videos=DemoVideos(),
        shard_videos=ShardVideos(size=64, fps="8,16"),
        train_vqgan=replace(base.train_vqgan, steps=0, epochs=30.0, steps_between=(3_000, 9_000)),
        train_ldm=replace(base.train_ldm, steps=0, epochs=100.0, steps_between=(2_500, 8_000)),
        distill_ldm=replace(base.distill_ldm, steps=0, epochs=20.0, steps_between=(400, 1_600)),
        sample=Sample(default_steps=20),
        evaluate=Evaluate(default_steps=20),
    ).under("runs/own-small")


def _paper(base: Preset) -> Preset:
    """What the paper specifies: 3D convolutions with a VQ codebook and three losses, a diffusion
    model with class dropout 0.5, 100 sampling steps. It gives no widths, loss weights or learning
    rates, nor what the denoiser predicts: these are chosen here, the noise as in DDPM."""
    return replace(
        base,
        train_vqgan=replace(
            base.train_vqgan,
            model=VQGANConfig(
                blocks=((1, 2, 2), (2, 2, 2), (2, 2, 2)),
                widths=(64, 128, 256),
                depths=(1, 2, 2),
                codebook_size=16_384,
            ),
            discriminator=replace(base.train_vqgan.discriminator, image=False),
            loss=replace(base.train_vqgan.loss, l1=1.0, l2=0.0, lecam=0.0),
        ),
        train_ldm=replace(
            base.train_ldm,
            lr=2e-4,
            model=UNetConfig(width=128, multipliers=(1, 2, 4)),
            objective=ObjectiveConfig(name="epsilon", class_dropout=0.5),
        ),
        sample=replace(base.sample, default_steps=100),
        evaluate=replace(base.evaluate, default_steps=100),
    )


def ucf101_paper() -> Preset:
    """UCF-101 after the paper."""
    return _paper(ucf101()).under("runs/ucf101-paper")


def sky_paper() -> Preset:
    """Sky Time-lapse after the paper."""
    return _paper(sky()).under("runs/sky-paper")


def vdm() -> Preset:
    """The paper's comparison: the same generator on pixels, 16x64x64, as VDM; no `train_vqgan`,
    no `encode_latents`."""
    base = ucf101_paper()
    return replace(
        base,
        shard_videos=replace(base.shard_videos, size=64),
        train_ldm=replace(
            base.train_ldm,
            vqgan=PIXEL_SPACE,
            batch_size=128,
            model=UNetConfig(
                width=64,
                multipliers=(1, 2, 4, 8),
                depths=(2, 2, 2, 2),
                factorised=True,
                spatial_attention_from=2,
            ),
        ),
    ).under("runs/vdm")


PRESETS: dict[str, Callable[[], Preset]] = {
    "demo": demo,
    "own": own,
    "own-small": own_small,
    "ucf101": ucf101,
    "ucf101-small": ucf101_small,
    "sky": sky,
    "games": games,
    "games-small": games_small,
    "ucf101-paper": ucf101_paper,
    "sky-paper": sky_paper,
    "vdm": vdm,
}


def settings(preset: str, job: str) -> Job:
    """A job's settings under a preset; `UserError` with the nearest name for an unknown one."""
    if preset not in PRESETS:
        hint = did_you_mean(preset, PRESETS)
        raise UserError(f"unknown preset {preset!r}: {hint}Presets: {', '.join(PRESETS)}")
    return getattr(PRESETS[preset](), job)
