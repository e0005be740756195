"""What is trained: the VQGAN and the LDM, each as a small object that the loop drives.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from pipelines.config.schema import TrainJob, TrainLDM, TrainVQGAN
from pipelines.io.video import Frames
from pipelines.training.loader import Batch
from pipelines.training.perceptual import load_perceptual
from pipelines.training.world import Draws, World
from vqvdm.checkpoint import on_device, save_model
from vqvdm.diffusion.objectives import add_noise, draw_times, drop_classes
from vqvdm.diffusion.unet import UNet
from vqvdm.ema import EMA
from vqvdm.generator import from_uint8, to_uint8
from vqvdm.metrics.pixels import psnr
from vqvdm.seeds import mix
from vqvdm.tokenizer.discriminator import Discriminators, one_frame
from vqvdm.tokenizer.losses import (
    LeCAM,
    adaptive_weight,
    adversarial_weight,
    discriminator_hinge,
    feature_matching,
    generator_hinge,
    reconstruction_loss,
)
from vqvdm.tokenizer.pixels import PIXELS, Pixels
from vqvdm.tokenizer.quantize import codebook_usage
from vqvdm.tokenizer.vqgan import VQGAN


class Method(Protocol):
    """What the loop needs to know of a model."""

    def train_step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """One optimiser step; metrics as scalar tensors of this worker."""

    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Metrics of the averaged weights on validation batches."""

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs."""

    def load(self, state: dict[str, Any]) -> None: ...

    def export(self, folder: Path) -> None:
        """Write what the next job uses into a local folder."""

    def preview(self, batch: Batch) -> Frames | None:
        """Frames (T, H, W, 3) to look at, or None."""


def scheduled_lr(step: int, config: TrainJob) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth of the highest rate."""
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    fall = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.lr * rise * (0.02 + 0.98 * fall)


def optimise(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float, clip: float) -> Tensor:
    """One step of an optimiser; returns the norm of the gradient before clipping."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    return norm


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimiser, its moments in the memory layout of their parameters.

    Files keep the plain layout, and the fused step pairs elements by their place in memory.
    """
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)


class VQGANMethod:
    """Reconstruction + VQ + discriminator losses, in alternating steps."""

    def __init__(self, config: TrainVQGAN, world: World) -> None:
        self.config, self.world = config, world
        torch.manual_seed(config.seed)
        self.vqgan = on_device(VQGAN(config.model), world.device)
        self.critic = on_device(Discriminators(config.discriminator), world.device)
        self.lecam = LeCAM()
        self.perceptual = config.perceptual and load_perceptual(config.perceptual, world.device)
        self.ema = EMA(self.vqgan, config.ema_decay)
        self._vqgan_ddp, self._critic_ddp = world.wrap(self.vqgan), world.wrap(self.critic)
        self.optimizer = torch.optim.AdamW(
            self.vqgan.parameters(),
            config.lr,
            (0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), config.discriminator_lr, (0.5, 0.9), fused=True
        )

    def _pixels(self, batch: Batch) -> Tensor:
        return from_uint8(batch.tensors["video"].to(self.world.device))

    def train_step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        # Dead codes are replaced at random: a seed a step makes a resumed training the same.
        torch.manual_seed(mix(self.config.seed, step))
        x = self._pixels(batch)
        weight = adversarial_weight(step, self.config.steps, self.config.loss)

        with self.world.autocast():
            y, quantized = self._vqgan_ddp(x)
        y = y.float()
        # Image networks see one frame of each clip, the same in all losses.
        shown = (Draws(self.world, self.config.seed, step).uniform(len(x)) * x.shape[2]).long()
        reconstruction = reconstruction_loss(x, y, self.config.loss)
        metrics = {"vq": quantized.loss}
        if self.perceptual:
            metrics["perceptual"] = self.perceptual(one_frame(x, shown), one_frame(y, shown))
            reconstruction = reconstruction + self.config.loss.perceptual * metrics["perceptual"]
        metrics["reconstruction"] = reconstruction
        loss = reconstruction + self.config.loss.vq * quantized.loss
        if weight:
            adversarial = self._adversarial_loss(x, y, shown)
            balance = self._balance(reconstruction, adversarial)
            loss = loss + weight * balance * adversarial
            metrics |= {"adversarial": adversarial, "adversarial_balance": balance}
        lr = scheduled_lr(step, self.config)
        metrics["gradient_norm"] = optimise(self.optimizer, loss, lr, self.config.grad_clip)
        self.ema.update(self.vqgan, step)

        if weight:
            metrics |= self._critic_step(x, y.detach(), shown)
        return metrics | {"loss": loss, "adversarial_weight": torch.tensor(weight)}

    def _adversarial_loss(self, x_BCTHW: Tensor, y_BCTHW: Tensor, shown_B: Tensor) -> Tensor:
        """What the discriminators hold against reconstructions."""
        matching = self.config.loss.feature_matching
        self.critic.requires_grad_(False)
        with self.world.autocast():
            fake = self.critic(y_BCTHW, shown_B)
            loss = generator_hinge(fake.logits)
            if matching:
                loss = loss + matching * feature_matching(self.critic(x_BCTHW, shown_B), fake)
        self.critic.requires_grad_(True)
        return loss

    def _balance(self, reconstruction: Tensor, adversarial: Tensor) -> Tensor:
        """The adaptive weight, from gradients averaged over the workers: the same on all."""
        last = self.vqgan.last_weight
        gradients = (
            self.world.average(torch.autograd.grad(loss, last, retain_graph=True)[0])
            for loss in (reconstruction, adversarial)
        )
        return adaptive_weight(*gradients)

    def _critic_step(self, x_BCTHW: Tensor, y_BCTHW: Tensor, shown_B: Tensor) -> dict[str, Tensor]:
        with self.world.autocast():
            both = self._critic_ddp(torch.cat([x_BCTHW, y_BCTHW]), torch.cat([shown_B, shown_B]))
        real, fake = both.halves()
        hinge = discriminator_hinge(real.logits, fake.logits)
        penalty = self.lecam.penalty(real.logits, fake.logits)
        optimise(
            self.critic_optimizer,
            hinge + self.config.loss.lecam * penalty,
            self.config.discriminator_lr,
            self.config.grad_clip,
        )
        means = {
            f"logits_{name}": torch.stack([logits.float().mean() for logits in part.logits]).mean()
            for name, part in (("real", real), ("fake", fake))
        }
        over_all = self.world.mean(means)
        self.lecam.update(over_all["logits_real"], over_all["logits_fake"])
        return {"discriminator": hinge, "lecam": penalty} | means

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        quality, indices = [], []
        for batch in batches:
            x = self._pixels(batch)
            with self.world.autocast():
                y, quantized = self.ema.average(x)
            quality.append(psnr(x, y.float().clamp(-1, 1)))
            indices.append(quantized.indices_BTHW.flatten())
        size = self.ema.average.quantizer.codebook_size
        usage, perplexity = codebook_usage(torch.cat(indices), size)
        return {
            "val/psnr": torch.cat(quality).mean().item(),
            "codebook/usage": usage,
            "codebook/perplexity": perplexity,
        }

    @torch.no_grad()
    def preview(self, batch: Batch) -> Frames | None:
        """Real clips beside their reconstructions."""
        x = self._pixels(batch)
        with self.world.autocast():
            y, _ = self.ema.average(x)
        pairs = torch.cat([x, y.float()], dim=-1)
        return rearrange(to_uint8(pairs), "b t h w c -> t (b h) w c").numpy()

    def state(self) -> dict[str, Any]:
        return {
            "vqgan": self.vqgan.state_dict(),
            "ema": self.ema.average.state_dict(),
            "critic": self.critic.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "lecam": {"real": self.lecam.real, "fake": self.lecam.fake},
        }

    def load(self, state: dict[str, Any]) -> None:
        self.vqgan.load_state_dict(state["vqgan"])
        self.ema.average.load_state_dict(state["ema"])
        self.critic.load_state_dict(state["critic"])
        load_optimizer(self.optimizer, state["optimizer"])
        load_optimizer(self.critic_optimizer, state["critic_optimizer"])
        self.lecam.real, self.lecam.fake = state["lecam"]["real"], state["lecam"]["fake"]

    def export(self, folder: Path) -> None:
        save_model(folder, self.ema.average, {"model": asdict(self.config.model)})


class LDMMethod:
    """A denoiser on normalised latents, class dropped at random."""

    def __init__(self, config: TrainLDM, world: World, data: Mapping[str, Any]) -> None:
        """`data` is the index of the latents: shape, classes, mean and std of each channel, and
        whether they are pixels."""
        self.config, self.world, self.data = config, world, data
        torch.manual_seed(config.seed)
        net = UNet(config.model, data["shape"][0], len(data["classes"]))
        self.denoiser = on_device(net, world.device)
        self.ema = EMA(self.denoiser, config.ema_decay)
        self._ddp = world.wrap(self.denoiser)
        self.optimizer = torch.optim.AdamW(
            self.denoiser.parameters(),
            config.lr,
            (0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        mean, std = (torch.tensor(data[name], device=world.device) for name in ("mean", "std"))
        self.mean_C111, self.std_C111 = mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)

    def _loss(self, net: nn.Module, batch: Batch, draws: Draws, dropout: float) -> Tensor:
        device, objective = self.world.device, self.config.objective
        raw = batch.tensors["latent"].to(device)
        z = (raw - self.mean_C111) / self.std_C111
        classes, fps = batch.tensors["class_index"].to(device), batch.tensors["fps"].to(device)
        no_class = self.denoiser.num_classes
        classes = torch.where(classes < 0, no_class, classes)
        rows = len(z)
        noise, time_B = (
            draws.normal(rows, *z.shape[1:]),
            draw_times(objective.name, draws.normal(rows)),
        )
        noised = add_noise(objective, z, noise, time_B)
        classes = drop_classes(classes, draws.uniform(rows), dropout, no_class)
        with self.world.autocast():
            prediction = net(noised.z_BCTHW, noised.time_B, classes, fps)
        error_B = (prediction.float() - noised.target_BCTHW).square().flatten(1).mean(1)
        return (noised.weight_B * error_B).mean()

    def train_step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        draws = Draws(self.world, self.config.seed, step)
        loss = self._loss(self._ddp, batch, draws, self.config.objective.class_dropout)
        lr = scheduled_lr(step, self.config)
        norm = optimise(self.optimizer, loss, lr, self.config.grad_clip)
        self.ema.update(self.denoiser, step)
        return {"loss": loss, "gradient_norm": norm}

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        alone = World(device=self.world.device, dtype=self.world.dtype)
        losses = [
            self._loss(self.ema.average, batch, Draws(alone, self.config.seed, index), 0.0)
            for index, batch in enumerate(batches)
        ]
        return {"val/loss": float(np.mean([loss.item() for loss in losses]))}

    def preview(self, batch: Batch) -> Frames | None:
        return None

    def state(self) -> dict[str, Any]:
        return {
            "denoiser": self.denoiser.state_dict(),
            "ema": self.ema.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.denoiser.load_state_dict(state["denoiser"])
        self.ema.average.load_state_dict(state["ema"])
        load_optimizer(self.optimizer, state["optimizer"])

    def export(self, folder: Path) -> None:
        about = {
            "model": asdict(self.config.model),
            "objective": asdict(self.config.objective),
            "latents": {name: self.data[name] for name in ("shape", "mean", "std")},
            "classes": self.data["classes"],
            "fps": self.data["fps"],
        }
        save_model(folder, self.ema.average, about)
        if self.data.get("in_pixels"):
            save_model(folder / "vqgan", Pixels(), {"model": PIXELS})
