"""A bundle of tiny nets on disk becomes videos."""

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny import write_bundle
from vqvdm import UserError, VideoGenerator
from vqvdm.checkpoint import save_model
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.denoiser import DenoiserConfig, build, described
from vqvdm.diffusion.dit import DiTConfig
from vqvdm.diffusion.guidance import Conditions
from vqvdm.diffusion.known_latents import KnownLatents
from vqvdm.diffusion.samplers import SAMPLERS, SamplingOptions
from vqvdm.diffusion.unet import UNet, UNetConfig
from vqvdm.generator import from_uint8, load_vqgan, to_uint8, usual_fps
from vqvdm.known_frames import KnownFrames
from vqvdm.tokenizer.pixels import PIXELS, Pixels
from vqvdm.tokenizer.vqgan import VQGAN, VQGANConfig

Bundle = Callable[..., Path]
TOKENIZER = VQGANConfig(
    blocks=((2, 4, 4),), widths=(8,), depths=(1,), quantizer="fsq", levels=(8, 8, 8)
)
DENOISER = UNetConfig(width=8, multipliers=(1, 2), depths=(1, 1), head_width=8)
DENOISERS: dict[str, DenoiserConfig] = {
    "unet": replace(DENOISER, temporal_positions="seconds", joint_attention_from=1),
    "dit": DiTConfig(width=16, depth=2, head_width=8),
}
STATISTICS = {"mean": [0.1, -0.2, 0.0], "std": [0.5, 0.4, 0.6]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    def build(classes: tuple[str, ...] = ("zero", "seven"), objective: str = "flow") -> Path:
        folder = tmp_path_factory.mktemp("ldm")
        torch.manual_seed(0)
        net, vqgan = UNet(DENOISER, NetInputs(3, len(classes))), VQGAN(TOKENIZER)
        for parameter in net.parameters():  # an untrained denoiser says nothing
            nn.init.normal_(parameter, std=0.2)
        metadata = {
            "model": asdict(DENOISER),
            "objective": {"name": objective, "class_dropout": 0.5},
            "latents": {"shape": [3, 2, 4, 4], **STATISTICS},
            "classes": list(classes),
        }
        save_model(folder, net, metadata)
        save_model(folder / "vqgan", vqgan, {"model": asdict(TOKENIZER)})
        return folder

    return build


@pytest.fixture(scope="module")
def generator(bundle: Bundle) -> VideoGenerator:
    return VideoGenerator.load(bundle())


def test_pixels_and_bytes_are_inverse() -> None:
    video_BTHWC = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 4, 8, 8, 3)
    x_BCTHW = from_uint8(video_BTHWC)
    assert x_BCTHW.shape == (1, 3, 4, 8, 8)
    assert (x_BCTHW.min(), x_BCTHW.max()) == (-1, 1)
    assert torch.equal(to_uint8(x_BCTHW), video_BTHWC)
    assert to_uint8(x_BCTHW).is_contiguous()
    assert torch.equal(to_uint8(x_BCTHW * 5), to_uint8((x_BCTHW * 5).clamp(-1, 1)))


def test_a_video_for_each_class_named(generator: VideoGenerator) -> None:
    videos = generator.sample(["seven", None, "zero"], fps=8, steps=2)
    assert videos.shape == (3, 4, 16, 16, 3)
    assert videos.dtype == np.uint8
    assert len(np.unique(videos)) > 10


@pytest.mark.long
@pytest.mark.parametrize("objective", ["flow", "v", "epsilon"])
def test_compiled_nets_sample_the_same(bundle: Bundle, objective: str) -> None:
    folder = bundle(objective=objective)
    eager, compiled = (VideoGenerator.load(folder, precision="fp32") for _ in range(2))
    # Inductor would generate code for a minute; this backend traces and differentiates as it does.
    compiled.compile("aot_eager")
    for sampler in SAMPLERS[objective]:
        options = SamplingOptions(3, 2.0, sampler)
        z, z_compiled = (
            made.sample_latents(["zero", "seven"], 8.0, options=options)
            for made in (eager, compiled)
        )
        assert (z - z_compiled).abs().max() < 1e-4
        decoded, again = eager.vqgan.decode(z), compiled.vqgan.decode(z)
        assert (decoded - again).abs().max() < 1e-4


@pytest.mark.slow
def test_inductor_samples_the_same(bundle: Bundle) -> None:
    folder = bundle()
    eager, compiled = (
        VideoGenerator.load(folder, precision="fp32", compile=on) for on in (False, True)
    )
    z, z_compiled = (made.sample_latents(["seven"], 8.0, steps=3) for made in (eager, compiled))
    assert (z - z_compiled).abs().max() < 1e-4


def test_the_result_of_one_step_outlives_the_next(generator: VideoGenerator) -> None:
    """A CUDA graph writes each result over the last one; so does this denoiser."""
    place = torch.empty(1, 3, 2, 4, 4)
    values = iter((1.0, 2.0))
    same_place = copy.copy(generator)
    same_place.denoiser = lambda *_: place.fill_(next(values))  # type: ignore[assignment]
    conditions = Conditions(torch.tensor([0]), torch.tensor([8.0]), no_class=2)
    first, second = (same_place._predict(place, torch.ones(1), conditions) for _ in range(2))
    assert (first.unique().item(), second.unique().item()) == (1.0, 2.0)


def test_without_a_tokenizer_pixels_are_sampled(tmp_path: Path) -> None:
    net = UNet(replace(DENOISER, spatial_attention_from=1), NetInputs(3, 2))
    metadata = {
        "model": asdict(net.config),
        "objective": {"name": "epsilon"},
        "latents": {"shape": [3, 4, 16, 16], "mean": [0.0] * 3, "std": [0.5] * 3},
        "classes": ["zero", "seven"],
    }
    save_model(tmp_path, net, metadata)
    save_model(tmp_path / "vqgan", Pixels(), {"model": PIXELS})
    generator = VideoGenerator.load(tmp_path)
    videos = generator.sample(["zero", None], steps=2, seed=3)
    pixels = generator.sample_latents(["zero", None], steps=2, seed=3)
    assert videos.shape == (2, 4, 16, 16, 3)
    assert np.array_equal(videos, to_uint8(pixels).numpy())
    # The last step of DDPM is its estimate of the data, which is kept within the range of pixels.
    assert pixels.abs().max().item() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", DENOISERS.values(), ids=DENOISERS)
def test_every_net_goes_on_from_known_frames_and_samples_alone(
    shape: DenoiserConfig, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net, vqgan = build(shape, NetInputs(3, 2, known_frames=True)), VQGAN(TOKENIZER)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    metadata = described(shape) | {
        "objective": {"name": "flow"},
        "latents": {"shape": [3, 4, 4, 4], **STATISTICS},
        "classes": ["zero", "seven"],
        "conditioning": {"share": 0.5, "noise": 0.1},
    }
    save_model(tmp_path, net, metadata)
    save_model(tmp_path / "vqgan", vqgan, {"model": asdict(TOKENIZER)})
    generator = VideoGenerator.load(tmp_path, precision="fp32")
    assert type(generator.denoiser) is type(net) and generator.denoiser.config == shape
    together = generator.sample_latents(["zero", "seven"], 8, steps=2, seed=[(5, 0), (5, 1)])
    alone = generator.sample_latents(["seven"], 8, steps=2, seed=[(5, 1)])
    torch.testing.assert_close(alone[0], together[1], atol=1e-4, rtol=1e-4)
    is_known_BT = torch.tensor([[True, True, False, False]])
    known = KnownLatents(torch.ones(1, 3, 4, 4, 4), is_known_BT)
    further = generator.sample_latents(["seven"], 8, known=known, steps=2, seed=[(5, 1)])
    assert torch.equal(further[:, :, :2], known.z_BCTHW[:, :, :2])
    assert not torch.allclose(further[:, :, 2:], alone[:, :, 2:], atol=1e-3)


def test_a_video_does_not_depend_on_its_neighbours(generator: VideoGenerator) -> None:
    seeds = [(5, 0), (5, 1), (5, 2)]
    classes = ["zero", "seven", None]
    together = generator.sample(classes, steps=3, seed=seeds)
    for i in range(3):
        alone = generator.sample(classes[i : i + 1], steps=3, seed=seeds[i : i + 1])
        assert np.abs(alone[0].astype(int) - together[i].astype(int)).max() <= 1
    first = generator.sample(["zero"], steps=3, seed=5)
    both = generator.sample(["zero", "zero"], steps=3, seed=5)
    assert np.abs(first[0].astype(int) - both[0].astype(int)).max() <= 1
    assert not np.array_equal(both[0], both[1])


def test_what_a_video_depends_on(generator: VideoGenerator) -> None:
    settings: dict[str, Any] = {"fps": 8, "steps": 2, "guidance": 2.0, "seed": 0}
    settings["classes"] = ["zero"]
    base = generator.sample_latents(**settings)
    assert torch.equal(generator.sample_latents(**settings), base)
    changes: list[dict[str, Any]] = [
        {"classes": ["seven"]},
        {"fps": 24},
        {"steps": 3},
        {"guidance": 1.0},
        {"seed": 1},
        {"sampler": "euler"},
    ]
    for change in changes:
        assert not torch.allclose(generator.sample_latents(**settings | change), base, atol=1e-4)


def test_options_are_given_together_or_by_name(generator: VideoGenerator) -> None:
    options = SamplingOptions(2, 1.5, "euler", (0.2, 0.9))
    together = generator.sample(["zero"], 8, seed=3, options=options)
    assert np.array_equal(generator.sample(["zero"], 8, seed=3, **asdict(options)), together)
    changed = generator.sample_latents(["zero"], options=options, steps=3)
    assert torch.equal(
        changed, generator.sample_latents(["zero"], options=replace(options, steps=3))
    )
    with pytest.raises(TypeError, match="'guidence'"):
        generator.sample(["zero"], guidence=2.0)
    with pytest.raises(TypeError):
        generator.sample(["zero"], 8.0, 20)  # steps have a name


def test_latents_are_put_back_to_their_statistics(generator: VideoGenerator) -> None:
    plain = {"shape": [3, 2, 4, 4], "mean": [0.0] * 3, "std": [1.0] * 3}
    other = VideoGenerator(
        generator.denoiser, generator.vqgan, generator.metadata | {"latents": plain}
    )
    raw, normalised = (g.sample_latents(["zero"], steps=2) for g in (generator, other))
    mean, std = (torch.tensor(STATISTICS[k]).view(3, 1, 1, 1) for k in ("mean", "std"))
    torch.testing.assert_close(raw, normalised * std + mean)


def test_a_noise_predicting_model_has_a_sampler_of_its_own(bundle: Bundle) -> None:
    generator = VideoGenerator.load(bundle(objective="epsilon"))
    assert generator.sample(["zero"], steps=2).shape == (1, 4, 16, 16, 3)
    with pytest.raises(
        UserError, match=r"'heun' does not fit .*'epsilon'; use one of: ddpm, ddim, dpm"
    ):
        generator.sample(["zero"], steps=2, sampler="heun")


def test_an_unconditional_model_samples_and_knows_no_class(bundle: Bundle) -> None:
    generator = VideoGenerator.load(bundle(classes=()))
    assert generator.sample([None, None], steps=1).shape == (2, 4, 16, 16, 3)
    with pytest.raises(UserError, match="unconditional"):
        generator.sample(["zero"], steps=1)


@pytest.mark.parametrize(("name", "hint"), [("Zero", "zero"), ("sevn", "seven")])
def test_an_unknown_class_names_the_nearest(
    generator: VideoGenerator, name: str, hint: str
) -> None:
    with pytest.raises(UserError, match=f"'{name}': did you mean '{hint}'.*zero, seven"):
        generator.sample(["zero", name], steps=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("fps", value) for value in (0, -8.0, float("nan"), float("inf"))),
        *(("guidance", value) for value in (-1.0, float("nan"), float("inf"))),
        *(("guidance_interval", value) for value in ((0.5, 0.5), (0.8, 0.2), (-0.1, 1), (0, 2))),
        ("steps", 0),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    generator: VideoGenerator, name: str, value: Any
) -> None:
    with pytest.raises(UserError, match=f"^{name} (is|must) "):
        generator.sample(["zero"], **{"steps": 1, name: value})


def test_a_sampler_that_does_not_fit_is_refused(generator: VideoGenerator) -> None:
    with pytest.raises(UserError, match=r"'ddim' does not fit .* heun, euler"):
        generator.sample(["zero"], steps=1, sampler="ddim")


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "vqgan/config.json", "vqgan/model.safetensors"]
)
def test_an_incomplete_bundle_is_refused(bundle: Bundle, file: str) -> None:
    folder = bundle()
    (folder / file).unlink()
    with pytest.raises(UserError, match="is missing"):
        VideoGenerator.load(folder)


def test_an_exported_tokenizer_is_ready_to_use(bundle: Bundle) -> None:
    vqgan = load_vqgan(bundle() / "vqgan")
    assert vqgan.config == TOKENIZER
    assert not vqgan.training
    assert not any(p.requires_grad for p in vqgan.parameters())
    assert vqgan.encode(torch.zeros(1, 3, 4, 16, 16)).shape == (1, 3, 2, 4, 4)


@pytest.fixture(scope="module")
def going_on(tmp_path_factory: pytest.TempPathFactory) -> VideoGenerator:
    """A generator of 16 frames 32x32, of which a latent frame stands for four."""
    return VideoGenerator.load(
        write_bundle(tmp_path_factory.mktemp("ldm"), known_frames=True), precision="fp32"
    )


def clips(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 32, 32, 3), np.uint8)


def test_known_frames_come_back_as_the_decoder_shows_them(going_on: VideoGenerator) -> None:
    assert (going_on.video_shape, going_on.group) == ((16, 32, 32), 4)
    known = KnownFrames.ends(clips(), 4)
    given = going_on.encode_known(known)
    assert given.is_known_BT.tolist() == [[True, False, False, True]] * 2
    z = going_on.sample_latents(["zero", None], known=given, steps=2)
    ends = [0, 3]
    torch.testing.assert_close(z[:, :, ends], given.z_BCTHW[:, :, ends])
    assert not torch.isclose(z[:, :, 1:3], given.z_BCTHW[:, :, 1:3]).any(-1).all()
    videos = going_on.sample(["zero", None], known=known, steps=2)
    assert np.array_equal(videos, to_uint8(going_on.vqgan.decode(z)).numpy())


def test_what_is_made_follows_from_known_frames_alone(going_on: VideoGenerator) -> None:
    known = KnownFrames.first(clips()[:, :8], 16)
    made = going_on.sample(["zero", "seven"], known=known, steps=2, seed=3)
    ignored = known.videos_NTHWC.copy()
    ignored[:, 8:] = 77
    again = KnownFrames(ignored, known.is_known_NT)
    assert np.array_equal(going_on.sample(["zero", "seven"], known=again, steps=2, seed=3), made)
    other = KnownFrames.first(255 - clips()[:, :8], 16)
    changed = going_on.sample(["zero", "seven"], known=other, steps=2, seed=3)
    assert (changed[:, 8:] != made[:, 8:]).mean() > 0.1
    # Each video has a mask of its own, and none is a neighbour's.
    masks = np.array([np.arange(16) < 8, np.zeros(16, bool)])
    own = going_on.sample(
        ["zero", "seven"], known=KnownFrames(known.videos_NTHWC, masks), steps=2, seed=3
    )
    free = going_on.sample(["zero", "seven"], steps=2, seed=3)
    assert np.abs(own[0].astype(int) - made[0].astype(int)).max() <= 1
    assert np.abs(own[1].astype(int) - free[1].astype(int)).max() <= 1


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_net_sees_clean_known_latents_at_every_step(
    going_on: VideoGenerator, guidance: float
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = going_on.denoiser.register_forward_pre_hook(
        lambda _, inputs, more: seen.append((inputs[0], more["is_known_BT"])), with_kwargs=True
    )
    known = going_on.encode_known(KnownFrames.first(clips()[:, :4], 16))
    # Frames are a condition too: a clip without a class is guided towards them.
    going_on.sample_latents([None, None], known=known, steps=2, guidance=guidance)
    hook.remove()
    clean = (known.z_BCTHW[:, :, 0] - 0.0) / 0.5
    assert len(seen) == 3  # Heun's method
    for z, is_known_BT in seen:
        assert len(z) == (2 if guidance == 1 else 4)
        told = [[True, False, False, False]] * 2
        assert is_known_BT.tolist() == told + [[False] * 4] * (len(z) - 2)
        torch.testing.assert_close(z[:2, :, 0], clean)
    if guidance != 1:
        # What is not told sees them noised: from pure noise at time 1 on a line to the clean ones.
        start, middle, end = (z[2:, :, 0] for z, _ in seen)
        torch.testing.assert_close(middle, (start + clean) / 2)
        torch.testing.assert_close(end, middle)


def test_longer_videos_go_on_from_their_last_half(going_on: VideoGenerator) -> None:
    classes: list[Any] = ["zero", ["zero", "seven"]]
    short = going_on.sample(["zero", "zero"], steps=2, seed=1)
    longer = going_on.sample(classes, frames=32, steps=2, seed=1)
    assert longer.shape == (2, 32, 32, 32, 3)
    assert np.abs(longer[:, :8].astype(int) - short[:, :8].astype(int)).max() <= 1
    # Windows of a class begin alike; the third of the second video is of another class.
    alike = going_on.sample(["zero", "zero"], frames=32, steps=2, seed=1)
    assert np.abs(alike[0].astype(int) - longer[0].astype(int)).max() <= 1
    assert np.abs(alike[1, :16].astype(int) - longer[1, :16].astype(int)).max() <= 1
    assert (alike[1, 24:] != longer[1, 24:]).mean() > 0.05
    # Noise of a window is its own: nothing repeats.
    assert (longer[:, 8:16] != longer[:, 16:24]).mean() > 0.1


def test_a_net_is_told_in_every_window_what_the_last_half_was(going_on: VideoGenerator) -> None:
    made: list[torch.Tensor] = []
    asked: list[Any] = []
    spied = copy.copy(going_on)

    def sample_latents(classes: Any, fps: float, *, known: Any, **others: Any) -> torch.Tensor:
        asked.append(known)
        made.append(going_on.sample_latents(classes, fps, known=known, **others))
        return made[-1]

    spied.sample_latents = sample_latents  # type: ignore[method-assign]
    spied.sample(["zero"], frames=32, steps=1)
    assert asked[0] is None and len(made) == 3
    for before, known in zip(made, asked[1:], strict=False):
        assert known.is_known_BT.tolist() == [[True, True, False, False]]
        assert torch.equal(known.z_BCTHW[:, :, :2], before[:, :, 2:])
    for before, after in zip(made, made[1:], strict=False):
        torch.testing.assert_close(after[:, :, :2], before[:, :, 2:])


@pytest.mark.long
def test_compiled_nets_go_on_the_same(going_on: VideoGenerator, tmp_path: Path) -> None:
    compiled = VideoGenerator.load(write_bundle(tmp_path, known_frames=True), precision="fp32")
    compiled.compile("aot_eager")
    known = going_on.encode_known(KnownFrames.first(clips()[:, :8], 16))
    z, again = (
        made.sample_latents(["zero", None], known=known, steps=2) for made in (going_on, compiled)
    )
    assert (z - again).abs().max() < 1e-4


def test_what_a_model_was_not_trained_for_is_said(bundle: Bundle, going_on: VideoGenerator) -> None:
    plain = VideoGenerator.load(bundle())
    known = KnownFrames.first(np.zeros((1, 2, 16, 16, 3), np.uint8), 4)
    with pytest.raises(UserError, match=r"not trained with .* --conditioning\.share 0\.5"):
        plain.sample(["zero"], steps=1, known=known)
    with pytest.raises(UserError, match=r"at most 4 frames at once; use --mode extend "):
        plain.sample(["zero"], steps=1, frames=6)
    assert plain.sample(["zero"], steps=1, frames=4).shape == (1, 4, 16, 16, 3)
    with pytest.raises(UserError, match="whole groups of 4"):
        going_on.sample(["zero"], known=KnownFrames.first(clips(1)[:, :6], 16))
    with pytest.raises(UserError, match=r"frames is 20: .* give 16 or 24"):
        going_on.sample(["zero"], frames=20)
    with pytest.raises(UserError, match="classes in turn: 2, windows of the video: 1"):
        going_on.sample([["zero", "seven"]])


OTHERS: dict[str, DenoiserConfig] = DENOISERS | {
    "numbers": replace(DENOISER, spatial_attention_from=1),
    "patches": DiTConfig(width=16, depth=2, head_width=8, patch=2),
    "factorised": DiTConfig(width=16, depth=2, head_width=8, attention="factorised"),
}


def other_generator(name: str, known_frames: bool = False) -> VideoGenerator:
    """A net of random weights for videos of 4 frames 16x16, two frames and 4x4 pixels a latent."""
    torch.manual_seed(0)
    net, vqgan = build(OTHERS[name], NetInputs(3, 1, known_frames=known_frames)), VQGAN(TOKENIZER)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    about = described(OTHERS[name]) | {
        "objective": {"name": "flow"},
        "latents": {"shape": [3, 2, 4, 4], **STATISTICS},
        "classes": ["zero"],
    }
    return VideoGenerator(net.eval(), vqgan.eval(), about)


@pytest.mark.parametrize("name", OTHERS)
def test_other_sizes_and_shorter_videos_are_made_by_every_net(name: str) -> None:
    generator = other_generator(name)
    usual = generator.sample(["zero"], steps=2, seed=1)
    same = generator.sample(["zero"], steps=2, seed=1, size=16, frames=4)
    assert np.array_equal(usual, same)
    for size, frames in ((8, 4), (24, 4), (32, 2)):
        made = generator.sample(["zero", None], steps=2, size=size, frames=frames)
        assert made.shape == (2, frames, size, size, 3)
        assert len(np.unique(made)) > 10
    with pytest.raises(UserError, match="size is 30: this model makes multiples of"):
        generator.sample(["zero"], steps=2, size=30)


@pytest.mark.parametrize("name", OTHERS)
def test_longer_videos_are_made_at_once_by_nets_that_tell_seconds(name: str) -> None:
    generator = other_generator(name)
    if generator.shapes.any_length:
        assert generator.sample(["zero"], steps=2, frames=10).shape == (1, 10, 16, 16, 3)
        return
    with pytest.raises(
        UserError, match=r"frames is 10: .* absolute frame positions .* at most 4 frames at once"
    ):
        generator.sample(["zero"], steps=2, frames=10)


def test_a_model_that_goes_on_makes_longer_videos_in_windows_or_at_once() -> None:
    generator = other_generator("dit", known_frames=True)
    in_windows, at_once = (
        generator.sample(["zero"], steps=2, frames=6, at_once=once) for once in (False, True)
    )
    assert in_windows.shape == at_once.shape == (1, 6, 16, 16, 3)
    assert (in_windows != at_once).any()
    with pytest.raises(UserError, match="classes in turn: 2, windows of the video: 1"):
        generator.sample([["zero", "zero"]], frames=6, at_once=True)


def test_known_frames_are_those_of_the_size_that_is_made() -> None:
    generator = other_generator("unet", known_frames=True)
    given = np.full((1, 2, 24, 24, 3), 200, np.uint8)
    known = KnownFrames.first(given, 4)
    assert generator.sample(["zero"], steps=1, size=24, known=known).shape == (1, 4, 24, 24, 3)
    longer = generator.sample(["zero"], steps=1, size=24, known=known, frames=8)
    assert longer.shape == (1, 8, 24, 24, 3)
    with pytest.raises(UserError, match=r"this model takes uint8 \(1, 4, 16, 16, 3\)"):
        generator.sample(["zero"], steps=1, known=known)


PROMPTS = {"a red ball": 1.0, "a blue ball": -1.0}


def embedded(texts: Any) -> torch.Tensor:
    """A text encoder that knows two texts."""
    return torch.stack([torch.full((5,), PROMPTS.get(text, 0.0)) for text in texts])


def prompted(known_frames: bool = False) -> VideoGenerator:
    """A model of two classes that takes prompts."""
    torch.manual_seed(0)
    net = build(DENOISER, NetInputs(3, 2, known_frames=known_frames, text_width=5))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    metadata = {
        "objective": {"name": "flow"},
        "latents": {"shape": [3, 2, 4, 4], **STATISTICS},
        "classes": ["zero", "seven"],
        "text": {"width": 5, "mean": [0.5] * 5, "std": 2.0},
    }
    generator = VideoGenerator(net.eval(), VQGAN(TOKENIZER), metadata)
    generator.text_encoder = embedded
    return generator


def test_prompts_and_classes_stand_side_by_side() -> None:
    generator = prompted()
    red, blue = PROMPTS
    asked: list[dict[str, Any]] = [
        {"classes": ["seven"]},
        {"prompts": [red]},
        {"prompts": [blue]},
        {"classes": ["seven"], "prompts": [red]},
        {"classes": [None]},
    ]
    videos = [generator.sample(**each, steps=2) for each in asked]
    for number, video in enumerate(videos):
        assert all((video != other).any() for other in videos[:number])
    assert (videos[1] == generator.sample([None], prompts=[red], steps=2)).all()
    for blank in (None, "", " "):
        assert (videos[0] == generator.sample(["seven"], prompts=[blank], steps=2)).all()
    # Each video has its own, whatever its neighbours'.
    both = generator.sample(["seven", None], prompts=[None, red], steps=2, seed=[(0, 0), (0, 0)])
    assert np.abs(both.astype(int) - np.concatenate(videos[:2])).max() <= 1


def test_the_net_hears_standardised_prompts_and_guidance_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator, heard = prompted(known_frames=True), []
    forward = generator.denoiser.forward

    def listening(*inputs: Any, **more: Any) -> torch.Tensor:
        heard.append((inputs[2].tolist(), more["text_BD"]))
        return forward(*inputs, **more)

    monkeypatch.setattr(generator.denoiser, "forward", listening)
    red, blue = PROMPTS
    first = KnownFrames.first(np.zeros((3, 2, 16, 16, 3), np.uint8), 4)
    for known in (None, first):
        generator.sample(["seven", None, None], prompts=[red, blue, None], known=known, steps=1)
        ((classes, text_BD),) = heard
        assert classes == [1, 2, 2, 2, 2, 2]
        assert text_BD[:, 0].tolist() == [0.25, -0.75, 0.0, 0.0, 0.0, 0.0]
        heard.clear()
    generator.sample(prompts=[red], guidance=1.0, steps=1)
    assert heard.pop()[1].tolist() == [[0.25] * 5]


def test_a_bundle_without_its_text_encoder_makes_videos_of_classes(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    bundle = write_bundle(tmp_path / "told", captioned=True)
    (bundle / "text_encoder/config.json").unlink()
    generator = VideoGenerator.load(bundle)
    assert generator.sample(["seven"], steps=1).any()
    with pytest.raises(UserError, match=r"told lacks text_encoder/config\.json, which reads its p"):
        generator.sample(prompts=["a red ball"], steps=1)


def test_obvious_mistakes_with_prompts_are_told(generator: VideoGenerator) -> None:
    with pytest.raises(UserError, match=r"trained without captions, .*--text-encoder FOLDER"):
        generator.sample(prompts=["a red ball"])
    generator.sample(["zero"], prompts=[None], steps=1)  # nothing is asked
    for asked, why in (
        ({"prompts": "a red ball"}, "prompts must be a list of texts"),
        ({"classes": ["zero", "seven"], "prompts": ["a"]}, "1 prompts for 2 classes: give as many"),
        ({"classes": [], "prompts": ["a"]}, "classes must be a list of names"),
        ({"prompts": []}, "classes must be a list of names"),
        ({}, "classes must be a list of names"),
    ):
        with pytest.raises(UserError, match=why):
            prompted().sample(**asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [([8.0, 16.0], 16.0), ([8.0], 8.0), ([24.0, 25.0, 29.97, 60.0, 240.0], 29.97), ([], 16.0)],
)
def test_a_rate_of_the_model_is_imitated_where_none_is_named(
    rates: list[float], expected: float
) -> None:
    assert usual_fps({"fps": rates}) == expected and usual_fps({}) == 16.0
