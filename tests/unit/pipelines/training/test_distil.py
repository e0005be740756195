"""A student: begins as its teacher, learns its average velocities, and samples in a few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.memory import MemoryBatch
from pipelines.training.methods.denoiser import Clips
from pipelines.training.methods.distil import DistilMethod, Teacher
from pipelines.training.settings import DistillLDM
from pipelines.training.world import Draws, World
from tests.tiny import TOKENIZER
from tests.trainings import CAPTIONED, DENOISER, DIT, INDEX, batch, teacher, told_student
from vqvdm.checkpoint import load_config, load_state, save_model, save_state
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.denoiser import described
from vqvdm.diffusion.dit import DiT
from vqvdm.diffusion.guidance import Conditions, predict_with
from vqvdm.diffusion.known_latents import ConditioningConfig, KnownLatents
from vqvdm.diffusion.samplers import Point, guided_denoise, held, heun
from vqvdm.errors import UserError
from vqvdm.generator import VideoGenerator
from vqvdm.tokenizer.vqgan import VQGAN


def student(**changes: Any) -> DistilMethod:
    config = DistillLDM(steps=10, batch_size=4, warmup=1, **changes)
    return DistilMethod(config, World(), INDEX, teacher())


def weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def test_a_student_begins_as_its_teacher() -> None:
    method = student()
    z, time, fps = torch.randn(4, 3, 2, 4, 4), torch.rand(4), torch.full((4,), 8.0)
    classes = torch.tensor([0, 1, 2, 0])
    said = method.teacher(z, time, classes, fps)
    assert said.std() > 0.01
    for length in (1.0, 0.25):
        assert torch.equal(method.denoiser(z, time, classes, fps, torch.full((4,), length)), said)


def test_a_transformer_has_a_student_of_its_kind(tmp_path: Path) -> None:
    torch.manual_seed(7)
    net = DiT(DIT, NetInputs(3, 2))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_model(tmp_path / "teacher", net, described(DIT))
    bundle = load_config(tmp_path / "teacher") | {
        "latents": {"shape": INDEX["shape"]}, "classes": INDEX["classes"],
        "objective": {"name": "flow"},
    }  # fmt: skip
    read = Teacher(str(tmp_path / "teacher"), bundle).net()
    assert all(map(torch.equal, read.parameters(), net.parameters()))
    method = DistilMethod(DistillLDM(steps=10, batch_size=4, warmup=1), World(), INDEX, read)
    assert isinstance(method.denoiser, DiT)
    method.train_step(batch(), 0)
    method.export(tmp_path / "fast")
    save_model(tmp_path / "fast" / "vqgan", VQGAN(TOKENIZER), {"model": asdict(TOKENIZER)})
    generator = VideoGenerator.load(tmp_path / "fast", precision="fp32")
    assert isinstance(generator.denoiser, DiT)
    assert generator.sample_latents(["a", "b"], fps=8, steps=2).isfinite().all()


@pytest.mark.long
def test_only_the_student_learns() -> None:
    method = student()
    taught, before = weights(method.teacher.state_dict()), weights(method.denoiser.state_dict())
    method.train_step(batch(), 0)
    assert all(torch.equal(v, taught[k]) for k, v in method.teacher.state_dict().items())
    moved = {k for k, v in method.denoiser.state_dict().items() if not torch.equal(v, before[k])}
    assert "conditioning.interval.2.weight" in moved
    assert "first.weight" in moved
    assert all(p.grad is None for p in method.ema.average.parameters())


def test_steps_take_turns_among_the_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    method, counts = student(intervals=8), []

    def error(net: Any, batch: Any, draws: Any, count: int, *_: float) -> Tensor:
        counts.append(count)
        return next(method.denoiser.parameters()).sum()

    monkeypatch.setattr(method, "_error", error)
    for step in range(16):
        method.train_step(batch(), step)
    assert counts == [8, 4, 8, 2, 8, 4, 8, 1] * 2


@pytest.mark.long
def test_a_student_learns_every_grid() -> None:
    method = student(lr=2e-3, ema_decay=0.5)
    before = method.validate([batch()])
    assert before.keys() == {"val/loss_1", "val/loss_2", "val/loss_4"}
    for _ in range(6):
        for step in range(10):
            method.train_step(batch(), step)
    after = method.validate([batch()])
    assert all(after[name] < before[name] for name in before)


@pytest.mark.long
@pytest.mark.parametrize("begin", [student, lambda: told_student(World())], ids=["plain", "told"])
def test_a_training_goes_on_bit_by_bit(tmp_path: Path, begin: Callable[[], DistilMethod]) -> None:
    undisturbed, resumed = begin(), begin()
    for step in range(3):
        undisturbed.train_step(batch(), step)
    save_state(tmp_path / "state", undisturbed.state())
    resumed.load(load_state(tmp_path / "state"))
    for step in range(3, 6):
        for method in (undisturbed, resumed):
            method.train_step(batch(), step)
    for net in ("denoiser", "ema"):
        ours, theirs = resumed.state()[net], undisturbed.state()[net]
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def by_the_sampler(method: DistilMethod, clip: Clips, known: KnownLatents, at: Point) -> Tensor:
    """The average velocity of the last quarter of the time before a point, by the teacher, guided
    and told as a sampler asks it; `known` has the noise of all frames in place of latents."""
    z = at.alpha * clip.z_BCTHW + at.sigma * known.z_BCTHW
    given = known._replace(z_BCTHW=clip.z_BCTHW)
    conditions = clip.conditions._replace(known=given)
    denoise = guided_denoise(partial(predict_with, method.teacher), conditions, "flow", 2.0)
    times = [at.time - k / 8 for k in range(3)]
    end = heun(held(denoise, given), z, [Point(t, 1 - t, t) for t in times], lambda: z)
    return (z - end) / 0.25


def test_targets_are_what_the_told_teacher_samples() -> None:
    """By captions and given frames, with guidance towards both."""
    method = told_student(World())
    method.conditioning = ConditioningConfig(0.5, noise=0.0)
    clips = method.clips(batch())
    noise = Draws(World(), 0, 0).normal(4, *clips.z_BCTHW.shape[1:])
    class_B, fps_B, own_BD = (getattr(clips.conditions, n) for n in ("class_B", "fps_B", "text_BD"))

    def error(text_BD: Tensor) -> float:
        def net(z: Tensor, time_B: Tensor, *_: Tensor, **more: Tensor) -> Tensor:
            assert torch.equal(more["text_BD"], own_BD)
            found = []
            for b, time in enumerate(time_B.tolist()):
                class_1, fps_1, text_1D = (x[b : b + 1] for x in (class_B, fps_B, text_BD))
                conditions = Conditions(class_1, fps_1, 2, text_1D)
                clip = Clips(clips.z_BCTHW[b : b + 1], conditions)
                known = KnownLatents(noise[b : b + 1], more["is_known_BT"][b : b + 1])
                found.append(by_the_sampler(method, clip, known, Point(time, 1 - time, time)))
            return torch.cat(found)

        with torch.no_grad():
            return method._error(net, batch(), Draws(World(), 0, 0), 4, 0.0, 0.9).item()  # type: ignore[arg-type]

    assert error(own_BD) < 1e-9
    # The second clip has no caption.
    for b, changes in enumerate((True, False, True, True)):
        other_BD = own_BD.clone()
        other_BD[b] *= -1
        assert (error(other_BD) > 1e-5) == changes


@pytest.mark.parametrize("count", [4, 1])
def test_captions_that_are_dropped_teach_nothing(count: int) -> None:
    method, errors = told_student(World()), []
    for dropout in (0.0, 1.0):
        for scale in (1.0, 2.0):
            clips = batch()
            clips.tensors["text"] *= scale
            draws = Draws(World(), 0, 0)
            errors.append(method._error(method.denoiser, clips, draws, count, dropout, 0.5).item())
    with_1, with_2, without_1, without_2 = errors
    assert with_1 != with_2 and without_1 == without_2


def test_validation_tells_of_given_frames_apart() -> None:
    values = told_student(World()).validate([batch()])
    names = [f"val/loss{given}_{count}" for given in ("", "_given") for count in (1, 2, 4)]
    assert list(values) == names and len(set(values.values())) == 6


def test_a_student_samples_by_prompts_and_from_given_frames(tmp_path: Path) -> None:
    method = told_student(World())
    for step in range(2):
        method.train_step(batch(), step)
    method.export(tmp_path)
    save_model(tmp_path / "vqgan", VQGAN(TOKENIZER), {"model": asdict(TOKENIZER)})
    told = load_config(tmp_path)
    assert told["conditioning"] == {"share": 0.5, "noise": 0.1}
    assert told["text"] == {k: v for k, v in CAPTIONED["text"].items() if k != "clips"}
    generator = VideoGenerator.load(tmp_path, precision="fp32")
    generator.text_encoder = lambda texts: torch.tensor([[float(len(t or ""))] * 5 for t in texts])
    heard: list[dict[str, Any]] = []
    generator.denoiser.register_forward_pre_hook(
        lambda _, inputs, more: heard.append({"rows": len(inputs[0]), "over": inputs[4], **more}),
        with_kwargs=True,
    )
    z = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    known = KnownLatents(z, torch.tensor([[True, False]] * 2))
    options: dict[str, Any] = {"fps": 8, "steps": 2, "seed": [(0, 0)] * 2}
    made = generator.sample_latents([None] * 2, prompts=["a", "abc"], known=known, **options)
    assert torch.equal(made[:, :, 0], z[:, :, 0])
    assert (made[0, :, 1] - made[1, :, 1]).abs().max() > 1e-3
    for each in heard:
        # One evaluation a step, without a second half for guidance.
        assert each["rows"] == 2 and each["over"].tolist() == [0.5] * 2
        assert each["is_known_BT"].tolist() == [[True, False]] * 2
        assert each["text_BD"][:, 0].tolist() == pytest.approx([1.8, 5.8])
    free = generator.sample_latents([None] * 2, prompts=["a", "abc"], **options)
    assert not torch.equal(free, made) and len(heard) == 4


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoGenerator]:
    folder = tmp_path_factory.mktemp("fast")
    method = student(sampling_steps=2, guidance=3.0)
    for step in range(4):
        method.train_step(batch(), step)
    method.export(folder)
    save_model(folder / "vqgan", VQGAN(TOKENIZER), {"model": asdict(TOKENIZER)})
    yield VideoGenerator.load(folder)


@pytest.mark.long
def test_a_bundle_samples_in_a_few_steps(generator: VideoGenerator) -> None:
    assert generator.denoiser.config == DENOISER
    assert generator.metadata["objective"] == {
        "name": "average_velocity",
        "intervals": 4,
        "guidance": 3.0,
        "guidance_interval": [0.0, 1.0],
    }
    asked = []
    generator.denoiser.register_forward_pre_hook(
        lambda _, inputs: asked.append([len(inputs[0]), inputs[1][0].item(), inputs[4][0].item()])
    )
    videos = {steps: generator.sample(["a", None], 8.0, steps=steps) for steps in (1, 2, 4)}
    # One evaluation a step, of two clips: time, and the time that it spans.
    assert asked[:3] == [[2, 1.0, 1.0], [2, 1.0, 0.5], [2, 0.5, 0.5]]
    assert asked[3:] == [[2, time, 0.25] for time in (1.0, 0.75, 0.5, 0.25)]
    default = generator.sample(["a", None], 8.0)
    assert np.array_equal(default, videos[2])
    assert not np.array_equal(default, videos[4])
    assert np.array_equal(generator.sample(["a", None], 8.0, guidance=7.0), default)


def test_what_a_student_cannot_do_is_said(generator: VideoGenerator) -> None:
    with pytest.raises(UserError, match=r"steps is 3: .* 1, 2 or 4 steps"):
        generator.sample(["a"], 8.0, steps=3)
    with pytest.raises(UserError, match="use one of: euler"):
        generator.sample(["a"], 8.0, sampler="heun")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "base"}, "--name base is the teacher's"),
        ({"intervals": 6}, "--intervals 6: give a power of two"),
        ({"intervals": 1}, "--intervals 1: give a power of two"),
        ({"teacher_steps": 0}, "--teacher-steps must be at least 1"),
        ({"class_dropout": 1.5}, "--class-dropout must lie in .* not 1.5"),
        ({"sampling_steps": 8}, "steps is 8: .* 1, 2 or 4 steps"),
        ({"guidance": -1.0}, "--guidance must be at least 0, not -1.0"),
        ({"guidance_interval": (0.8, 0.2)}, "guidance_interval"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    DistillLDM().check()
    with pytest.raises(UserError, match=message):
        DistillLDM(**changes).check()


def test_every_clip_counts_alike_in_a_validation_loss() -> None:
    """Also those of a last batch that is shorter."""
    method, whole = told_student(World()), batch()
    one = MemoryBatch({name: tensor[:1] for name, tensor in whole.tensors.items()})
    both, first = method.validate([whole, one]), method.validate([whole])
    for name, value in both.items():
        count, share = int(name.rsplit("_", 1)[1]), float("given" in name)
        draws = Draws(World(), method.config.seed, 1)
        alone = method._error(method.ema.average, one, draws, count, 0.0, share).item()
        assert value == pytest.approx((4 * first[name] + alone) / 5)
