"""Stage one: how the VQGAN is trained.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from pipelines.training.loader import Batch
from pipelines.training.methods.base import mean_over_parts
from pipelines.training.optimise import Optimiser, scheduled_lr
from pipelines.training.perceptual import load_perceptual
from pipelines.training.settings import TrainVQGAN
from pipelines.training.world import Draws, World
from pipelines.video import Frames
from vqvdm.checkpoint import save_model
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
from vqvdm.tokenizer.quantize import Quantized, as_rows, codebook_usage
from vqvdm.tokenizer.vqgan import VQGAN

SIDES = ("real", "fake")


class _Passed(NamedTuple):
    """What became of one part of a batch in the tokenizer, and the losses of it."""

    x_BCTHW: Tensor
    y_BCTHW: Tensor
    z_BCTHW: Tensor
    """Raw latents."""
    indices_BTHW: Tensor
    shown_B: Tensor
    """The frame of each clip that image networks see, the same in all losses."""
    reconstruction: Tensor
    """The perceptual loss included, where there is one."""
    vq: Tensor
    perceptual: Tensor | None
    adversarial: Tensor | None


class _Through(nn.Module):
    """Pixels to reconstructions, with the latents on the way: what DDP is wrapped around."""

    def __init__(self, vqgan: VQGAN) -> None:
        super().__init__()
        self.vqgan = vqgan

    def forward(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor, Quantized]:
        z = self.vqgan.encode(x_BCTHW)
        quantized = self.vqgan.quantizer(z)
        return self.vqgan.decoder(quantized.z_BCTHW), z, quantized


class VQGANMethod:
    """Reconstruction + VQ + discriminator losses, in alternating steps."""

    def __init__(self, config: TrainVQGAN, world: World) -> None:
        self.config, self.world = config, world
        torch.manual_seed(config.seed)
        self.vqgan = world.place(VQGAN(config.model))
        self.critic = world.place(Discriminators(config.discriminator))
        self.lecam = LeCAM(len(self.critic.names))
        self.perceptual = config.perceptual and load_perceptual(config.perceptual, world.device)
        self.ema = EMA(self.vqgan, config.ema_decay)
        world.compile(self.vqgan.encoder, self.vqgan.decoder, self.critic)
        self._through = _Through(self.vqgan)
        self._through_ddp, self._critic_ddp = world.wrap(self._through), world.wrap(self.critic)
        adamw = torch.optim.AdamW(
            self.vqgan.parameters(),
            config.lr,
            (0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.optimiser = Optimiser(adamw, world, config.grad_clip)
        adamw = torch.optim.AdamW(
            self.critic.parameters(), config.discriminator_lr, (0.5, 0.9), fused=True
        )
        self.critic_optimiser = Optimiser(adamw, world, config.grad_clip)

    def _pixels(self, batch: Batch) -> Tensor:
        return from_uint8(batch.to(self.world.device).tensors["video"])

    def train_step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        # Dead codes are replaced at random: a seed a step makes a resumed training the same.
        torch.manual_seed(mix(self.config.seed, step))
        parts = batch.split(self.config.accumulate)
        if step == 0:
            self._place_codes(parts)
        weight = adversarial_weight(step, self.config.steps, self.config.loss)
        balance = None
        if weight and len(parts) > 1:
            # One weight for the whole batch: its parts go through once more, for that alone.
            balance = self._balance(self._passes(self._through, parts, step, judged=True))
        passed, metrics = [], []
        for one in self._passes(self._through_ddp, parts, step, judged=bool(weight)):
            loss = one.reconstruction + self.config.loss.vq * one.vq
            found = {"reconstruction": one.reconstruction, "vq": one.vq}
            if one.perceptual is not None:
                found["perceptual"] = one.perceptual
            if one.adversarial is not None:
                balance = self._balance([one]) if balance is None else balance
                loss = loss + weight * balance * one.adversarial
                found |= {"adversarial": one.adversarial, "adversarial_balance": balance}
            self.optimiser.backward(loss / len(parts))
            passed.append(one._replace(y_BCTHW=one.y_BCTHW.detach(), z_BCTHW=one.z_BCTHW.detach()))
            metrics.append(found | {"loss": loss})
        norm = self.optimiser.step(scheduled_lr(step, self.config))
        self._learn_codes(passed)
        self.ema.update(self.vqgan, step)
        whole = mean_over_parts(metrics) | {"gradient_norm": norm}
        if weight:
            whole |= self._critic_step(passed)
        return whole | {"adversarial_weight": torch.tensor(weight)}

    def _passes(
        self, net: nn.Module, parts: Sequence[Batch], step: int, judged: bool
    ) -> Iterator[_Passed]:
        """Each part of a batch through the tokenizer, and before the discriminators."""
        for index, part in enumerate(parts):
            x = self._pixels(part)
            draws = Draws(self.world, self.config.seed, step, index, len(parts))
            shown = (draws.uniform(len(x)) * x.shape[2]).long()
            with self.world.collecting(net, last=index == len(parts) - 1):
                with self.world.autocast():
                    y, z, quantized = net(x)
                y = y.float()
                reconstruction, perceptual = reconstruction_loss(x, y, self.config.loss), None
                if self.perceptual:
                    perceptual = self.perceptual(one_frame(x, shown), one_frame(y, shown))
                    reconstruction = reconstruction + self.config.loss.perceptual * perceptual
                yield _Passed(
                    x,
                    y,
                    z,
                    quantized.indices_BTHW,
                    shown,
                    reconstruction,
                    quantized.loss,
                    perceptual,
                    self._adversarial_loss(x, y, shown) if judged else None,
                )

    @torch.no_grad()
    def _place_codes(self, parts: Sequence[Batch]) -> None:
        """Start the codes among the latents of the first batch, those of all workers."""
        with self.world.autocast():
            z = torch.cat([self.vqgan.encode(self._pixels(part)) for part in parts])
        self.vqgan.quantizer.start(as_rows(self.world.gather(z)))

    def _learn_codes(self, passed: Sequence[_Passed]) -> None:
        """Codes move by the whole batch, the same on all workers."""
        z = self.world.gather(torch.cat([one.z_BCTHW for one in passed]))
        indices = self.world.gather(torch.cat([one.indices_BTHW for one in passed]))
        self.vqgan.quantizer.learn(as_rows(z), indices.flatten())

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

    def _balance(self, passes: Iterable[_Passed]) -> Tensor:
        """The adaptive weight, from gradients averaged over parts and workers: one for all."""
        last, scale = self.vqgan.last_weight, self.optimiser.scale
        sums = [torch.zeros_like(last), torch.zeros_like(last)]
        parts = 0
        for one in passes:
            assert one.adversarial is not None
            parts += 1
            for total, loss in zip(sums, (one.reconstruction, one.adversarial), strict=True):
                (gradient,) = torch.autograd.grad(
                    self.optimiser.scaled(loss), last, retain_graph=True
                )
                total += gradient / scale
        return adaptive_weight(*(self.world.average(total / parts) for total in sums))

    def _critic_step(self, passed: Sequence[_Passed]) -> dict[str, Tensor]:
        metrics = []
        for index, one in enumerate(passed):
            with self.world.collecting(self._critic_ddp, last=index == len(passed) - 1):
                found = self._judge(one)
                loss = found["discriminator"] + self.config.loss.lecam * found["lecam"]
                self.critic_optimiser.backward(loss / len(passed))
                metrics.append(found)
        self.critic_optimiser.step(self.config.discriminator_lr)
        whole = mean_over_parts(metrics)
        sides = [self._logit_names(side) for side in SIDES]
        logits = self.world.mean({name: whole[name] for side in sides for name in side})
        self.lecam.update(*([logits[name] for name in side] for side in sides))
        return whole

    def _logit_names(self, side: str) -> list[str]:
        """What the mean logits of each discriminator are logged as."""
        return [f"logits/{side}_{name}" for name in self.critic.names]

    def _judge(self, one: _Passed) -> dict[str, Tensor]:
        """Losses of the discriminators on real clips and their reconstructions."""
        with self.world.autocast():
            both = self._critic_ddp(
                torch.cat([one.x_BCTHW, one.y_BCTHW]), torch.cat([one.shown_B, one.shown_B])
            )
        real, fake = both.halves()
        means = {
            name: logits.detach().float().mean()
            for side, part in zip(SIDES, (real, fake), strict=True)
            for name, logits in zip(self._logit_names(side), part.logits, strict=True)
        }
        return {
            "discriminator": discriminator_hinge(real.logits, fake.logits),
            "lecam": self.lecam.penalty(real.logits, fake.logits),
        } | means

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
            "optimiser": self.optimiser.state(),
            "critic_optimiser": self.critic_optimiser.state(),
            "lecam": {"real": self.lecam.real, "fake": self.lecam.fake},
        }

    def load(self, state: dict[str, Any]) -> None:
        self.vqgan.load_state_dict(state["vqgan"])
        self.ema.average.load_state_dict(state["ema"])
        self.critic.load_state_dict(state["critic"])
        self.optimiser.load(state["optimiser"])
        self.critic_optimiser.load(state["critic_optimiser"])
        self.lecam.real, self.lecam.fake = state["lecam"]["real"], state["lecam"]["fake"]

    def export(self, folder: Path) -> None:
        save_model(folder, self.ema.average, {"model": asdict(self.config.model)})
