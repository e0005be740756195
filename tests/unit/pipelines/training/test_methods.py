"""The two trainings: schedule, metrics, classes and what they export."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipelines.training.loader import Batch
from pipelines.training.methods.ldm import LDMMethod, denoiser_of
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.optimise import scheduled_lr
from pipelines.training.settings import TrainJob, TrainLDM, TrainVQGAN
from pipelines.training.world import Draws, World
from tests.trainings import Given, batch, captions
from vqvdm.checkpoint import load_config, load_state, save_state
from vqvdm.diffusion.known_latents import ConditioningConfig
from vqvdm.diffusion.lora import LoRAConfig, frozen
from vqvdm.diffusion.objectives import ObjectiveConfig
from vqvdm.diffusion.unet import UNetConfig
from vqvdm.errors import UserError
from vqvdm.generator import VideoGenerator, from_uint8, load_vqgan
from vqvdm.tokenizer.discriminator import DiscriminatorConfig
from vqvdm.tokenizer.inflated import Inflated, InflatedConfig
from vqvdm.tokenizer.losses import LossConfig
from vqvdm.tokenizer.quantize import Codebook
from vqvdm.tokenizer.vqgan import VQGANConfig

VQGAN = VQGANConfig(
    blocks=((2, 4, 4),), widths=(8,), depths=(1,), quantizer="fsq", levels=(4, 4, 4)
)
UNET = UNetConfig(width=8, multipliers=(1, 2), depths=(1, 1), head_width=8)
INDEX = {
    "shape": [3, 2, 4, 4], "classes": ["a", "b"], "fps": [8.0, 16.0],
    "mean": [0.1, 0.0, -0.1], "std": [0.5, 1.0, 2.0],
}  # fmt: skip


def vqgan_method(**changes: Any) -> VQGANMethod:
    critic = DiscriminatorConfig(width=8, levels=2)
    config = TrainVQGAN(steps=10, warmup=1, model=VQGAN, discriminator=critic, **changes)
    return VQGANMethod(config, World())


def ldm_method(dropout: float = 0.0, **changes: Any) -> LDMMethod:
    objective = ObjectiveConfig(class_dropout=dropout)
    config = TrainLDM(steps=10, model=UNET, objective=objective, **changes)
    method = LDMMethod(config, World(), INDEX)
    torch.manual_seed(1)
    for parameter in method.denoiser.parameters():  # at first, the class says nothing
        nn.init.normal_(parameter, std=0.2)
    return method


def clips(count: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (count, 4, 16, 16, 3), dtype=torch.uint8, generator=generator)
    return Batch([str(k) for k in range(count)], {"video": video})


def latents(*classes: int) -> Batch:
    z = torch.randn(len(classes), 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    fps = torch.full((len(classes),), 8.0)
    tensors = {"latent": z, "class_index": torch.tensor(classes), "fps": fps}
    return Batch([str(k) for k in range(len(classes))], tensors)


def test_the_rate_rises_in_a_line_then_falls_along_half_a_cosine() -> None:
    config = TrainJob(steps=1000, lr=2.0, warmup=10)
    rates = [scheduled_lr(step, config) for step in range(1001)]
    assert rates[:10] == pytest.approx([2.0 * (k + 1) / 10 for k in range(10)], rel=1e-3)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[250] == pytest.approx(2.0 * (0.02 + 0.98 * (1 + math.sqrt(0.5)) / 2))
    assert rates[500] == pytest.approx(2.0 * 0.51)
    assert rates[1000] == pytest.approx(2.0 / 50)
    assert scheduled_lr(0, TrainJob(steps=10, lr=2.0, warmup=0)) == 2.0


def test_the_scheduled_rate_is_the_optimisers() -> None:
    method = ldm_method(lr=0.5, warmup=4)
    method.train_step(latents(0, 1), 1)
    assert method.optimiser.optimizer.param_groups[0]["lr"] == scheduled_lr(1, method.config)


@pytest.mark.parametrize("tied", [False, True])
def test_the_discriminators_rate_follows_the_tokenizers_if_tied(tied: bool) -> None:
    loss = LossConfig(adversarial_start=0.0)
    method = vqgan_method(lr=0.5, discriminator_lr=0.1, discriminator_tied=tied, loss=loss)
    for step in (1, 7):
        method.train_step(clips(), step)
        (group,) = method.critic.optimiser.optimizer.param_groups
        expected = 0.1 * scheduled_lr(step, method.config) / 0.5 if tied else 0.1
        assert group["lr"] == pytest.approx(expected)


def trained(dropout: float, *classes: int) -> tuple[float, dict[str, Tensor]]:
    method = ldm_method(dropout)
    loss = method.train_step(latents(*classes), 0)["loss"].item()
    return loss, method.denoiser.state_dict()


def test_unlabelled_latents_train_no_class() -> None:
    loss, weights = trained(0.0, -1, -1)
    dropped_loss, dropped = trained(1.0, 0, 1)
    assert loss == dropped_loss
    assert all(torch.equal(dropped[name], weight) for name, weight in weights.items())
    assert trained(0.0, 0, 1)[0] != loss


def test_ldm_validation_drops_no_class_and_moves_nothing() -> None:
    method = ldm_method(dropout=1.0)
    method.train_step(latents(0, 1), 0)
    before = {name: value.clone() for name, value in method.ema.average.state_dict().items()}
    value = method.validate([latents(0, 1)])
    assert value == method.validate([latents(0, 1)]) != method.validate([latents(1, 0)])
    assert value.keys() == {"val/loss"}
    after = method.ema.average.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_net_without_given_frames_is_what_it_was(tmp_path: Path) -> None:
    """Its weights, its bundle and the recipe of its training."""
    plain = ldm_method()
    assert not plain.denoiser.inputs.known_frames
    assert plain.denoiser.state_dict()["first.weight"].shape[1] == 3
    plain.export(tmp_path)
    assert "conditioning" not in load_config(tmp_path)
    assert "conditioning" not in TrainLDM().recipe()
    told = TrainLDM(conditioning=ConditioningConfig(0.5)).recipe()
    assert told["conditioning"] == {"share": 0.5, "noise": 0.1}


def given_method(share: float = 1.0, noise: float = 0.0) -> LDMMethod:
    return ldm_method(conditioning=ConditioningConfig(share, noise))


def test_given_frames_come_clean_and_marked_and_are_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, batch = given_method(), latents(0, 1, 0, 1)
    z = method.clips(batch).z_BCTHW
    seen: list[tuple[Tensor, Tensor]] = []

    def net(z_BCTHW: Tensor, *_: Tensor, is_known_BT: Tensor) -> Tensor:
        seen.append((z_BCTHW, is_known_BT))
        # Whatever is said of given frames costs nothing.
        return torch.where(is_known_BT[:, None, :, None, None], 1e6, torch.zeros_like(z_BCTHW))

    loss = method._loss(net, batch, Draws(World(), 0, 0), 0.0, 1.0)  # type: ignore[arg-type]
    ((put, known_BT),) = seen
    assert known_BT.sum(1).tolist() == [1, 1, 1, 1]  # of two frames
    where = known_BT[:, None, :, None, None].expand_as(z)
    assert torch.equal(put[where], z[where])
    assert not torch.isclose(put[~where], z[~where]).any()
    noise = Draws(World(), 0, 0).normal(4, *z.shape[1:])
    expected = (noise - z).square()[~where].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_noise_on_given_frames_hides_what_later_frames_wrote_there() -> None:
    z = torch.zeros(200, 3, 2, 4, 4)
    given = given_method(noise=0.3).known(z, Draws(World(), 0, 0), 1.0)
    assert given.z_BCTHW.std().item() == pytest.approx(0.3, rel=0.03)


def test_validation_tells_of_clips_without_and_with_given_frames() -> None:
    values = given_method(0.5).validate([latents(0, 1), latents(1, 0)])
    assert values.keys() == {"val/loss", "val/loss_given"}
    assert values == given_method(0.5).validate([latents(0, 1), latents(1, 0)])
    assert values["val/loss"] != values["val/loss_given"]


def test_latents_of_one_frame_leave_nothing_to_predict() -> None:
    TrainLDM().check_frames(1)
    told = TrainLDM(conditioning=ConditioningConfig(0.5))
    told.check_frames(2)
    with pytest.raises(UserError, match=r"--conditioning\.share 0\.5: latents of one frame"):
        told.check_frames(1)


NEW = INDEX | {"classes": ["c", "a"]}
"""A class that the net to begin with knows, and one that it does not."""


def said(net: nn.Module, *classes: int) -> Tensor:
    """What a net predicts of the same latents."""
    z = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return net(z, torch.tensor([0.3, 0.8]), torch.tensor(classes), torch.tensor([8.0, 16.0]))


def base(**changes: Any) -> LDMMethod:
    """A net that says something, as a trained one does."""
    method = ldm_method(**changes)
    method.ema.average.load_state_dict(method.denoiser.state_dict())
    return method


def lora_method(before: LDMMethod, data: dict[str, Any] = NEW, **changes: Any) -> LDMMethod:
    """A training of adapters that begins with the average of another training."""
    settings = {"lr": 0.02, "warmup": 1, "lora": LoRAConfig(4), "model": UNET, "ema_decay": 0.5}
    config = TrainLDM(steps=40, **settings | changes)
    initial = Given(before.ema.average.state_dict(), ("a", "b"))
    return LDMMethod(config, World(), data, initial=initial)


def test_adapters_begin_with_the_net_that_they_adapt() -> None:
    before = base()
    method = lora_method(before)
    words = method.start()
    assert words and "; in part: conditioning.class_embedding.weight" in words
    for net in (method.denoiser, method.ema.average):
        assert torch.equal(said(net, 1, 2), said(before.ema.average, 0, 2))  # a, and no class
        assert torch.equal(said(net, 0, 2)[0], said(net, 2, 2)[0])  # a new class begins as none


def test_adapters_alone_are_trained_and_kept_by_the_optimiser(tmp_path: Path) -> None:
    method = lora_method(base())
    method.start()
    names = {id(parameter): name for name, parameter in method.denoiser.named_parameters()}
    kept = {names[id(parameter)] for parameter in method.optimiser.parameters}
    assert "conditioning.class_embedding.weight" in kept
    assert all("lora_" in name for name in kept - {"conditioning.class_embedding.weight"})
    before = {name: value.clone() for name, value in method.denoiser.state_dict().items()}
    held_out = [latents(0, 1)] * 8
    at_first = method.validate(held_out)["val/loss"]
    for step in range(40):
        method.train_step(latents(0, 1), step)
    assert method.validate(held_out)["val/loss"] < 0.9 * at_first
    after = method.denoiser.state_dict()
    assert {n for n, value in before.items() if not torch.equal(value, after[n])} == kept
    # What is published is an ordinary net that says what base and adapters say together.
    method.export(tmp_path)
    published = load_file(tmp_path / "model.safetensors")
    net = denoiser_of(TrainLDM(model=UNET), NEW)
    net.load_state_dict(published)
    assert (said(net, 0, 1) - said(method.ema.average, 0, 1)).abs().max() < 1e-6
    assert (said(net, 0, 1) - said(method.denoiser, 0, 1)).abs().max() > 1e-4
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    layer = "down.0.spatial.qkv"
    a, b = (tensors[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
    under = before[f"{layer}.parametrizations.weight.original"]
    torch.testing.assert_close(published[f"{layer}.weight"], under + 8 / 4 * b @ a)
    embedding = "conditioning.class_embedding.weight"
    assert torch.equal(tensors[f"base_model.model.{embedding}"], published[embedding])


def test_a_training_of_adapters_goes_on_without_the_net_that_it_began_with(
    tmp_path: Path,
) -> None:
    whole = lora_method(base())
    whole.start()
    for step in range(6):
        whole.train_step(latents(0, 1), step)
        if step == 2:
            save_state(tmp_path / "state", whole.state())
    part = lora_method(ldm_method(dropout=0.5))
    part.load(load_state(tmp_path / "state"))
    for step in range(3, 6):
        part.train_step(latents(0, 1), step)
    for net in ("denoiser", "ema"):
        found, expected = part.state()[net], whole.state()[net]
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_training_on_captions_goes_on_bit_by_bit(tmp_path: Path) -> None:
    whole = captions(World(), 1)
    for step in range(6):
        whole.train_step(batch(), step)
        if step == 2:
            save_state(tmp_path / "state", whole.state())
    part = captions(World(), 1)
    part.load(load_state(tmp_path / "state"))
    for step in range(3, 6):
        part.train_step(batch(), step)
    assert whole.denoiser.state_dict()["conditioning.text.weight"].any()
    for net in ("denoiser", "ema"):
        found, expected = part.state()[net], whole.state()[net]
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_captions_that_are_dropped_change_nothing() -> None:
    losses = []
    for dropout in (0.0, 1.0):
        for scale in (1.0, 2.0):
            method = captions(World(), 1)
            torch.manual_seed(1)
            for parameter in method.denoiser.parameters():  # at first, captions say nothing
                nn.init.normal_(parameter, std=0.2)
            told = batch()
            told.tensors["text"] *= scale
            losses.append(method._loss(method.denoiser, told, Draws(World(), 0, 0), dropout, 0.5))
    with_1, with_2, without_1, without_2 = (loss.item() for loss in losses)
    assert with_1 != with_2 and without_1 == without_2


def test_a_net_that_reads_known_frames_is_adapted_from_one_that_does_not() -> None:
    method = lora_method(base(), conditioning=ConditioningConfig(0.5))
    assert "first.weight" in (method.start() or "")
    assert not frozen(method.denoiser) & {"first.weight", "first.bias"}
    at_first = method.validate([latents(0, 1)] * 8)
    for step in range(40):
        method.train_step(latents(0, 1), step)
    assert method.validate([latents(0, 1)] * 8)["val/loss_given"] < at_first["val/loss_given"]


@pytest.mark.parametrize("change", ["depth", "channels"])
def test_layers_that_stay_as_they_are_have_to_be_taken_over_whole(change: str) -> None:
    other = replace(UNET, depths=(2, 1)) if change == "depth" else UNET
    data = (
        NEW
        if change == "depth"
        else NEW | {"shape": [4, 2, 4, 4]} | {name: [0.5] * 4 for name in ("mean", "std")}
    )
    with pytest.raises(UserError, match=r"--lora\.rank 4: .* does not fit; choose a net"):
        lora_method(base(), data, model=other).start()


def test_vqgan_validation_tells_quality_and_use_of_the_codebook() -> None:
    values = vqgan_method().validate([clips(2), clips(1)])
    assert values.keys() >= {"val/psnr", "codebook/usage"}
    assert 0 < values["val/psnr"] < 30
    assert 0 < values["codebook/usage"] <= 1
    assert 1 <= values["codebook/perplexity"] <= 64


def inflated_method(**changes: Any) -> VQGANMethod:
    shape = InflatedConfig((8, 16), 1, 3, 4, group=2)
    critic = DiscriminatorConfig(width=8, levels=2)
    config = TrainVQGAN(steps=10, warmup=1, discriminator=critic, **changes)
    return VQGANMethod(config.inflating(shape), World())


def test_what_is_not_quantised_has_no_use_of_a_codebook() -> None:
    assert inflated_method().validate([clips(2), clips(1)]).keys() == {"val/psnr"}


def test_a_tokenizer_out_of_an_image_autoencoder_is_trained_and_published(tmp_path: Path) -> None:
    loss = LossConfig(adversarial_start=0.0)
    method = inflated_method(loss=loss, lr=0.01, ema_decay=0.5)
    before = {name: value.clone() for name, value in method.vqgan.state_dict().items()}
    for step in range(3):  # norms in time learn once their convolutions say something
        assert ("adversarial" in method.train_step(clips(), step)) == (step > 0)
    after = method.vqgan.state_dict()
    assert not [name for name, value in before.items() if torch.equal(value, after[name])]
    method.export(tmp_path)
    published = load_vqgan(tmp_path)
    assert isinstance(published, Inflated)
    x = from_uint8(clips().tensors["video"])
    with torch.no_grad():
        torch.testing.assert_close(published.encode(x), method.ema.average.encode(x))
        assert not torch.allclose(published.encode(x), method.vqgan.encode(x), atol=1e-4)


def test_half_of_the_clips_are_mirrored_anew_at_each_step() -> None:
    batch, plain = clips(16), vqgan_method()
    x = from_uint8(batch.tensors["video"])
    mirrored = vqgan_method(augment="mirror")
    drawn = []
    for step in range(8):
        (as_it_is,), (part,) = plain._parts(batch, step), mirrored._parts(batch, step)
        assert torch.equal(as_it_is.x_BCTHW, x) and torch.equal(as_it_is.shown_B, part.shown_B)
        images = part.x_BCTHW
        which = [torch.equal(a, b.flip(-1)) for a, b in zip(images, x, strict=True)]
        for image, clip, is_mirrored in zip(images, x, which, strict=True):
            assert is_mirrored or torch.equal(image, clip)
        drawn.append(which)
    assert 40 < sum(map(sum, drawn)) < 88  # 64 of 128, give or take four deviations
    assert len({tuple(which) for which in drawn}) == 8


@pytest.mark.long
def test_no_code_is_replaced_in_the_last_tenth() -> None:
    net = VQGANConfig(blocks=((2, 4, 4),), widths=(8,), depths=(1,), codebook_size=64)
    method = VQGANMethod(TrainVQGAN(steps=20, warmup=1, model=net), World())
    book = method.vqgan.quantizer
    assert isinstance(book, Codebook)
    for step in (0, 16, 17, 18, 19):
        book.counts_K[:8] = 0.0
        method.train_step(clips(), step)
        # There is a latent a code, and a code that is replaced counts as much.
        assert (book.counts_K[:8] == 1.0).any() == (step < 18)


@pytest.mark.parametrize("start", [0.0, 0.9])
def test_the_discriminator_learns_once_it_has_a_say(start: float) -> None:
    loss = LossConfig(adversarial=0.1, adversarial_start=start, adversarial_ramp=0.0)
    method = vqgan_method(loss=loss)
    before = {name: value.clone() for name, value in method.critic.nets.state_dict().items()}
    metrics = method.train_step(clips(), 5)
    moved = any(not torch.equal(v, before[k]) for k, v in method.critic.nets.state_dict().items())
    assert moved == ("discriminator" in metrics) == ("adversarial" in metrics) == (start == 0.0)
    assert (metrics["adversarial_weight"].item() > 0) == moved
    assert all(parameter.requires_grad for parameter in method.critic.nets.parameters())


def test_lecam_follows_each_discriminator() -> None:
    method = vqgan_method(loss=LossConfig(adversarial_start=0.0), discriminator_lr=0.0)
    metrics = {}
    for step in range(2):  # the first has no weight yet
        metrics = method.train_step(clips(), step)
    judged, _ = method.critic.nets.video(from_uint8(clips().tensors["video"]))
    assert metrics["logits/real_video"].item() == pytest.approx(judged.mean().item(), rel=1e-4)
    for side, means in (("real", method.critic.lecam.real), ("fake", method.critic.lecam.fake)):
        logits = [metrics[f"logits/{side}_{name}"].item() for name in ("video", "image")]
        assert len({*means.tolist()}) == 2
        assert means.tolist() == pytest.approx(
            [(1 - method.critic.lecam.decay) * logit for logit in logits]
        )


def test_the_preview_shows_clips_beside_reconstructions() -> None:
    frames = vqgan_method().preview(clips(2))
    assert frames is not None
    assert frames.shape == (4, 2 * 16, 2 * 16, 3)
    assert (frames[:, :16, :16] == clips(2).tensors["video"][0].numpy()).all()


@pytest.mark.long
def test_the_preview_of_the_generator_shows_the_same_samples_again(tmp_path: Path) -> None:
    assert ldm_method().preview(latents(0)) is None  # nothing to decode with
    vqgan_method().export(tmp_path)
    method = ldm_method()
    method.vqgan = str(tmp_path)
    frames = method.preview(latents(0))
    assert frames is not None
    assert frames.shape == (4, 16, 2 * 16, 3)  # both classes
    assert (method.preview(latents(1)) == frames).all()
    method.train_step(latents(0, 1), 0)
    assert (method.preview(latents(0)) != frames).any()


def test_exports_are_the_averaged_weights_ready_to_use(tmp_path: Path) -> None:
    method, ldm = vqgan_method(lr=0.1), ldm_method()
    method.train_step(clips(), 0)
    method.export(tmp_path / "vqgan")
    ldm.export(tmp_path)
    x = torch.linspace(-1, 1, 3 * 4 * 16 * 16).view(1, 3, 4, 16, 16)
    with torch.no_grad():
        z = load_vqgan(tmp_path / "vqgan").encode(x)
        assert torch.equal(z, method.ema.average.encode(x))
        assert not torch.equal(z, method.vqgan.encode(x))
    videos = VideoGenerator.load(tmp_path).sample(["b", None], fps=8, steps=1)
    assert videos.shape == (2, 4, 16, 16, 3)


def moving_squares(seed: int, count: int = 8) -> Batch:
    """Clips of a bright square that crosses a dark ground."""
    rng = np.random.default_rng(seed)
    video = np.full((count, 4, 16, 16, 3), 20, np.uint8)
    for clip in video:
        (top, left), shade = rng.integers(0, 8, 2), rng.integers(100, 255, 3)
        for t, frame in enumerate(clip):
            frame[top : top + 6, left + t : left + t + 6] = shade
    return Batch([str(k) for k in range(count)], {"video": torch.from_numpy(video)})


@pytest.mark.long
def test_switching_the_discriminators_on_costs_less_than_a_decibel() -> None:
    steps, start = 400, 0.5
    net = VQGANConfig(blocks=((2, 4, 4),), widths=(16,), depths=(1,), codebook_size=64)
    config = TrainVQGAN(
        steps=steps,
        warmup=5,
        lr=4e-3,
        ema_decay=0.9,
        model=net,
        discriminator=DiscriminatorConfig(width=8, levels=2),
        loss=LossConfig(adversarial_start=start),
        discriminator_lr=1e-3,
    )
    method = VQGANMethod(config, World())
    held_out = [moving_squares(10_000, 32)]
    before, after = -math.inf, math.inf
    for step in range(steps):
        metrics = method.train_step(moving_squares(step), step)
        if step <= start * steps:
            assert "adversarial" not in metrics
            before = method.validate(held_out)["val/psnr"] if step == start * steps else before
        elif step % 10 == 9:
            after = min(after, method.validate(held_out)["val/psnr"])
    assert metrics["adversarial_weight"].item() == pytest.approx(config.loss.adversarial)
    assert before > 18  # it had learned something that could be lost
    assert after > before - 1


def test_every_clip_counts_alike_in_a_validation_loss() -> None:
    """Also those of a last batch that is shorter."""
    method = ldm_method()
    first, last = latents(*[0, 1] * 4), latents(1)
    whole = method.validate([first])["val/loss"]
    # What the last one has is drawn by its place among batches.
    alone = 2 * mean_of_batches(method, [first, last]) - whole
    found = method.validate([first, last])["val/loss"]
    assert found == pytest.approx((8 * whole + alone) / 9)


def mean_of_batches(method: LDMMethod, batches: list[Batch]) -> float:
    world, seed = World(), method.config.seed
    losses = [
        method._loss(method.ema.average, batch, Draws(world, seed, index), 0.0, 0.0).item()
        for index, batch in enumerate(batches)
    ]
    return float(np.mean(losses))
